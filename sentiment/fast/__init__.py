"""A faster encoder: it computes real tokens only.

    padded:  [CLS] a fine film [SEP]      packed:  [CLS] a fine film [SEP] [CLS] dull [SEP]
             [CLS] dull [SEP] --- ---

Without packing.install, the stock model computes the same, but for rounding and dropout's draws.
"""
