"""Label texts with a fine-tuned model: those given, or standard input, one text a line; one answer a line, in order.

echo "A gripping, funny film." | python predict.py
python predict.py "A gripping, funny film." "Two hours I will never get back."
python predict.py --output_format jsonl < reviews.txt > answers.jsonl
"""

import itertools
import json
import sys

from sentiment import data, device, inference, model
from sentiment.cli import Parser, script

CHUNK = 256  # texts in memory at a time


def parse_args(argv):
    parser = Parser(description="Label texts with a fine-tuned model, one answer a line.")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="texts to label (default: the lines of standard input)")
    parser.add_argument(
        "--model_name_or_path", default=model.DEFAULT_FOLDER, help="folder that train.py wrote, or Hub id"
    )
    parser.add_argument("--revision", default="main", help="of a model on the Hub: branch, tag or commit")
    parser.add_argument(
        "--output_format",
        choices=["tsv", "jsonl"],
        default="tsv",
        help="tsv: label and probability; jsonl: all of them",
    )
    return parser.parse_args(argv)


def answer(probabilities, classes, output_format):
    """One line for the probabilities, float [classes], of one text."""
    best = probabilities.argmax().item()
    score = probabilities[best].item()
    if output_format == "tsv":
        return f"{classes[best]}\t{score:.4f}"
    every = dict(zip(classes, probabilities.tolist(), strict=True))
    return json.dumps({"label": classes[best], "score": score, "probabilities": every}, ensure_ascii=False)


@script
def main(argv=None):
    args = parse_args(argv)
    device.keep_freed_memory()
    device.use_all_cores()
    precision = device.pick_precision()
    tokenizer, classifier = model.load_trained(args.model_name_or_path, args.revision)
    classifier.to(device.pick_device())
    classes = model.class_names(classifier)
    if args.text:
        texts = (text.encode("utf-8", "replace").decode() for text in args.text)
    else:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        texts = (line.rstrip("\r\n") for line in sys.stdin)
    while chunk := list(itertools.islice(texts, CHUNK)):
        encoded, _ = data.encode(tokenizer, chunk)
        logits = inference.logits(classifier, encoded, tokenizer.pad_token_id, precision)
        for probabilities in logits.double().softmax(dim=1):
            print(answer(probabilities, classes, args.output_format))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
