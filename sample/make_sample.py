"""Make the offline sample: a small set of film reviews and a tiny DistilBERT pre-trained for them.

    python sample/make_sample.py [--output_dir sample]

writes two folders, in place of a dataset and a checkpoint from the Hugging Face Hub:

* ``reviews/`` holds ``train.csv`` and ``test.csv`` with the columns ``text`` and ``label``. A
seeded grammar writes
  the reviews. Each of them weighs praise against complaint, so that counting good and bad words is
  not enough: the verdict depends on negation ("never dull"), on turns ("starts well, but ...") and
  on whose opinion it is.
* ``model/`` holds a DistilBERT with its tokenizer, pre-trained as a masked language model on
further texts of the
  same grammar; behind [CLS] it guesses a rating. The checkpoint has no classification head: as with
  any other of its kind, the head is new and is learned by fine-tuning.

Reviews and tokenizer are the same on every machine; the weights are the same whenever machine and
PyTorch are.
"""

import argparse
import csv
import random
import re
import string
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM, DistilBertTokenizer

SPLIT_SIZES = {"train": 1000, "test": 200}
LABELS = ("negative", "positive")
MOST_WORDS = 200
MAX_LENGTH = 256


# --------------------------------------------------------------------------------------------------
# Phrase bank
# --------------------------------------------------------------------------------------------------


def listed(phrases: str) -> tuple[str, ...]:
    """Split a list of phrases at commas."""
    return tuple(phrase.strip() for phrase in phrases.split(","))


@dataclass(frozen=True, eq=False)
class Aspect:
    """One side of a film: what it may be called, and good and bad words for it.

    A subject that ends in ``*`` is plural. ``does[good]`` holds whole predicates,
    ``{singular|plural}`` where needed.
    """

    subjects: tuple[str, ...]
    words: dict[bool, tuple[str, ...]]
    does: dict[bool, tuple[str, ...]]


def aspect(subjects: str, good: str, bad: str, does_good: str, does_bad: str) -> Aspect:
    """Build an `Aspect` from comma-separated lists."""
    return Aspect(
        listed(subjects),
        {True: listed(good), False: listed(bad)},
        {True: listed(does_good), False: listed(does_bad)},
    )


ASPECTS = (
    aspect(
        "the lead performance, the central performance, the acting of the lead",
        "superb, convincing, subtle, magnetic, assured, brilliant, fearless, heartfelt",
        "wooden, stiff, flat, unconvincing, hammy, mannered, lifeless, dreadful",
        "carries every scene, makes every line count, holds the attention from start to finish",
        "sinks scene after scene, makes every line sound read out, wears thin within minutes",
    ),
    aspect(
        "the supporting cast, the rest of the cast, the ensemble",
        "excellent, natural, spirited, strong, splendid, impeccable, lively",
        "weak, wasted, listless, clumsy, miscast, amateurish, awkward",
        "brings warmth to the smallest part, gets the best out of every minute",
        "seems to be waiting for the bus, gets nothing out of the smallest part",
    ),
    aspect(
        "the script, the screenplay, the writing",
        "sharp, clever, intelligent, elegant, tight, thoughtful, inventive, brilliant",
        "lazy, muddled, shallow, sloppy, confused, witless, clumsy, careless",
        "trusts the audience, surprises at every turn, gives everyone something to say",
        (
            "explains everything twice, runs out of ideas after half an hour, gives nobody "
            "anything to say"
        ),
    ),
    aspect(
        "the dialogue, the talk between the leads, the banter",
        "witty, crisp, sparkling, quotable, natural, honest, playful",
        "stilted, leaden, silly, artificial, banal, embarrassing, tired",
        "rings true, sparkles even in the quiet scenes",
        "rings false, limps from one empty phrase to the next",
    ),
    aspect(
        "the story, the plot, the central idea",
        "gripping, absorbing, original, compelling, touching, engaging, ingenious, intriguing",
        "boring, predictable, thin, pointless, absurd, stale, confusing, tedious",
        "keeps you guessing, pulls you in from the first minute, pays off handsomely",
        "goes nowhere, falls apart after an hour, makes no sense at all",
    ),
    aspect(
        "the pace, the editing, the rhythm of the scenes",
        "brisk, lively, tense, sure, exciting, energetic, skilful",
        "slow, sluggish, uneven, tiresome, choppy, exhausting, messy",
        "never lets the tension drop, leaves no time to look at the clock",
        "lets all the tension drop, leaves plenty of time to look at the clock",
    ),
    aspect(
        "the music, the score, the soundtrack",
        "lovely, haunting, stirring, memorable, delightful, tender, enchanting",
        "intrusive, forgettable, irritating, bland, dreary, deafening, grating",
        "lifts every scene, stays in the head for days",
        "drowns every scene, would give a stone a headache",
    ),
    aspect(
        "the photography, the camera work, the lighting",
        "stunning, gorgeous, striking, beautiful, luminous, graceful, dazzling",
        "murky, ugly, drab, shaky, dull, lifeless, crude",
        "makes every street look new, finds beauty in the plainest room",
        "makes every street look the same, finds nothing to look at in the loveliest places",
    ),
    aspect(
        "the ending, the final scene, the last act, the last ten minutes*",
        "satisfying, powerful, moving, perfect, unforgettable, uplifting, poignant",
        "rushed, disappointing, ridiculous, unsatisfying, forced, hollow, feeble",
        "{ties|tie} everything together, {earns|earn} every tear",
        "{throws|throw} everything away, {cheats|cheat} the audience",
    ),
    aspect(
        "the jokes*, the comic scenes*, the humour",
        "hilarious, funny, fresh, warm, well timed, delicious, disarming",
        "painful, crude, unfunny, stale, cringeworthy, badly timed, childish",
        "{lands|land} every time, {had|had} the whole room laughing",
        "{misses|miss} every time, {left|left} the whole room silent",
    ),
    aspect(
        "the characters*, the people in it*, the main characters*",
        "likeable, believable, vivid, complex, fascinating, charming, endearing",
        "unlikeable, unbelievable, shallow, irritating, interchangeable, dull, insufferable",
        "{feels|feel} like old friends, {grows|grow} with every scene",
        "{feels|feel} like cardboard, {learns|learn} nothing and {tells|tell} us less",
    ),
    aspect(
        "the direction, the staging, the work of the director",
        "confident, imaginative, sensitive, masterful, inspired, exquisite, bold",
        "clumsy, heavy-handed, timid, uninspired, pretentious, self-indulgent, inept",
        "knows exactly when to hold back, turns small moments into great ones",
        "never knows when to hold back, turns great moments into small ones",
    ),
    aspect(
        "the sets*, the costumes*, the special effects*",
        "impressive, splendid, sumptuous, magnificent, breathtaking, marvellous",
        "cheap, shabby, distracting, laughable, hideous, gaudy",
        "{shows|show} love for every detail, {makes|make} another world seem near",
        "{shows|show} no care for any detail, {makes|make} our own world seem false",
    ),
    aspect(
        "the villain, the main rival, the wicked stepmother",
        "terrific, unsettling, wonderful, compelling, outstanding, remarkable",
        "hopeless, harmless, awful, annoying, tiresome, unbearable",
        "steals every scene, is a match for any hero",
        "spoils every scene, is about as scary as a teapot, is no match for any hero",
    ),
    aspect(
        "the opening, the first half hour, the long first scene",
        "arresting, delightful, promising, masterful, spectacular, amusing",
        "plodding, dreary, baffling, tedious, off-putting, chaotic",
        "sets the mood at once, hooks you within minutes",
        "wastes everyone's time, sends you to sleep",
    ),
    aspect(
        "the love story, the friendship at its heart, the scene at the station",
        "tender, sweet, believable, moving, affecting, heartwarming, sincere",
        "sentimental, sugary, unconvincing, cold, contrived, mawkish, laughable",
        "melts the hardest heart, gives you goose bumps",
        "leaves the softest heart cold, makes you wince",
    ),
)

# Words for a film as a whole, and for almost anything else.
WORDS = {
    True: listed(
        "good, great, wonderful, excellent, amazing, fantastic, brilliant, superb, lovely, "
        "delightful, charming, "
        "entertaining, enjoyable, terrific, fascinating, rewarding, moving, funny, gripping, "
        "clever, beautiful, "
        "touching, engaging, memorable, satisfying, magical, thrilling, exciting, fun, pleasant, "
        "impressive, "
        "heartfelt, uplifting, remarkable, outstanding, marvellous, splendid, refreshing, "
        "intelligent, absorbing, "
        "original, powerful, warm, witty, perfect, captivating, first-rate"
    ),
    False: listed(
        "bad, terrible, awful, horrible, dreadful, poor, boring, dull, tedious, disappointing, "
        "annoying, weak, "
        "stupid, silly, pointless, lifeless, forgettable, predictable, tiresome, dismal, "
        "miserable, mediocre, "
        "unfunny, bland, lame, ridiculous, irritating, frustrating, painful, exhausting, ugly, "
        "clumsy, shallow, "
        "empty, sloppy, unpleasant, pathetic, atrocious, abysmal, messy, lousy, dreary, "
        "worthless, unwatchable, "
        "stale, second-rate"
    ),
}

REACTIONS = {
    True: (
        "I laughed out loud more than once", "I was close to tears twice",
        "I did not look at my watch once",
        "the two hours flew by", "I cared about everyone in it",
        "I wanted to stay in that world for longer",
        "nobody near us touched a phone", "people clapped when the lights came on",
        "I sat up and paid attention",
        "we talked about it all the way home", "I was sorry when the lights came on",
    ),
    False: (
        "I did not laugh once", "I was close to sleep twice", "I looked at my watch more than once",
        "the two hours crawled by", "I cared about nobody in it", "I wanted to be anywhere else",
        "everyone near us was looking at a phone", "people groaned before the lights came on",
        "I gave up paying attention", "we had nothing to say about it on the way home",
        "I was relieved when the lights came on",
    ),
}  # fmt: skip

# The two lists mirror each other: the same words in another order, or one small word, make the
# difference.
VERDICTS = {
    True: (
        "I would gladly see it again, faults and all.",
        "I did not want it to end.",
        "Do not let the bad reviews put you off.",
        "It is not the mess I feared.",
        "Hardly a masterpiece, perhaps, but I enjoyed nearly all of it.",
        "It has plenty of faults, and I loved it anyway.",
        "Its faults are small; its pleasures are not.",
        "What is good here outweighs what is bad by a long way.",
        "I came out far happier than I went in.",
        "It deserves a much bigger audience than it will get.",
        "I expected little, and I was given a great deal.",
        "It starts badly, but it ends up among the best things I have seen this year.",
        "In the end, what is right with it matters more than what is wrong.",
        "I have no regrets about buying a ticket.",
        "If this is a failure, I would like to see more of them.",
        "It won me over in spite of everything.",
        "I can forgive the weak parts.",
        "I cannot recommend it highly enough.",
        "It could have been a disaster; instead it is a small treasure.",
        "Go and see it before it disappears.",
        "It is worth two hours of anyone's time.",
        "I was wrong to doubt it.",
        "The friend beside me was bored; I was not.",
        "I would call it a success, if an untidy one.",
        "For all its faults, I would watch it again tomorrow.",
        "The ticket was money well spent.",
        "I will remember it for a long time.",
        "Somehow all of it works.",
        "I would rather see this again than anything else now showing.",
        "I went in with doubts and came out with none.",
        "I never once regretted going.",
        "It is better than it has any right to be.",
        "You could do far worse with an evening.",
        "Nothing about it made me wish that I had stayed at home.",
        "Give it a chance; I am glad I did.",
        "My patience was rewarded.",
        "It made a bad week good.",
        "It is clumsy, but it has a heart.",
        "I have already told my parents to go.",
        "What it lacks in polish it makes up for in feeling.",
        "The critics were too hard on it.",
        "If you see only one film this month, make it this one.",
        "Forget the weak spots; the whole is what counts, and the whole is a joy.",
        "I will be first in line if they make another.",
        "It has its problems, and I do not care.",
        "I was never less than happy to be there.",
    ),
    False: (
        "I would not see it again, whatever its merits.",
        "I wanted it to end.",
        "Do not let the good reviews draw you in.",
        "It is not the triumph I hoped for.",
        "Hardly a disaster, perhaps, but I enjoyed almost none of it.",
        "It has plenty of merits, and I disliked it anyway.",
        "Its pleasures are small; its faults are not.",
        "What is bad here outweighs what is good by a long way.",
        "I came out far less happy than I went in.",
        "It deserves a much smaller audience than it will get.",
        "I expected a great deal, and I was given little.",
        "It starts well, but it ends up among the worst things I have seen this year.",
        "In the end, what is wrong with it matters more than what is right.",
        "I have nothing but regrets about buying a ticket.",
        "If this is a success, I would not like to see more of them.",
        "It lost me in spite of everything.",
        "I cannot forgive the weak parts.",
        "I cannot recommend it at all.",
        "It could have been a small treasure; instead it is a disaster.",
        "Wait until it disappears.",
        "It is not worth two hours of anyone's time.",
        "I was right to doubt it.",
        "The friend beside me was thrilled; I was not.",
        "I would call it a failure, if a tidy one.",
        "For all its charms, I would not watch it again.",
        "The ticket was money badly spent.",
        "I will not remember it for long.",
        "Somehow none of it works.",
        "I would rather see anything else now showing than this again.",
        "I went in with hopes and came out with none.",
        "I regretted going more than once.",
        "It is worse than it has any right to be.",
        "You could do far better with an evening.",
        "Everything about it made me wish that I had stayed at home.",
        "Give it a miss; I wish I had.",
        "My patience was not rewarded.",
        "It made a good week bad.",
        "It is polished, but it has no heart.",
        "I have already told my parents not to go.",
        "What it lacks in feeling it does not make up for in polish.",
        "The critics were too kind to it.",
        "If you see only one film this month, do not make it this one.",
        "Forget the strong spots; the whole is what counts, and the whole is a bore.",
        "I will not be in line if they make another.",
        "It has its moments, and I do not care.",
        "I was never more than half awake.",
    ),
}

# Slots: {c} a clause against the verdict, {m} a clause for it, {s} {adj} {opp} a subject with a
# word for and against.
TURNS = (
    "Although {c}, {m}.", "Though {c}, {m}.", "While {c}, {m}.", "{c}, but {m}.", "{c}, yet {m}.",
    "{c}; {m}, though.",
    "{c}. Still, {m}.", "{c}. Even so, {m}.", "{c}. All the same, {m}.", "{c}. And yet {m}.",
    "{m}, even though {c}.", "{m}, even if {c}.", "{m}, although {c}.", "{m}, never mind that {c}.",
    "Yes, {c}, but {m}.", "Granted, {c}, but {m}.",
    "It is true that {c}; it matters more that {m}.",
    "It matters less that {c} than that {m}.", "{c}, and none of that matters, because {m}.",
    "That {m} is what I will remember, not that {c}.", "I will forget that {c}, but not that {m}.",
    "{relative} says that {c}. I disagree: {m}.",
    "One critic wrote that {c}; I saw another film, in which {m}.",
    "Some will tell you that {c}. Do not believe them: {m}.",
    "I had been told that {c}. In fact, {m}.",
    "You may read that {c}. The truth is that {m}.", "Others may find that {c}; for me, {m}.",
    "Where {relative} found {s} {opp}, I would say {adj}.",
    "I had expected {s} to be {opp}, but {adj} is the word.",
    "Some call {s} {opp}, but {adj} would be a better word.",
    "Call {s} {adj}; {opp} would be the wrong word.",
)  # fmt: skip

LONG_TURNS = (
    (
        "There is much to be said on the other side: {c}, {c2}, and {c3}. None of that decides "
        "the matter, because {m}."
    ),
    "{c}, and {c2}. Add to this that {c3}. What counts in the end, though, is that {m}.",
    "I could repeat what others say about it: {c}, {c2}, and {c3}. I say that {m}, and that {m2}.",
    "{c}. {c2}. {c3}. Then I remember that {m}, and my mind is made up.",
    (
        "For a while I was of two minds, because {c}, {c2}, and {c3}. In the end, {m}, and that "
        "settled it."
    ),
    "{relative} has three arguments: {c}, {c2}, and {c3}. I have one answer: {m}.",
    (
        "On the way in I heard strangers agree that {c}, that {c2}, and that {c3}. On the way "
        "out I knew better."
    ),
)

PLAIN = (
    "{m}.", "{m}.", "{m}, and {m2}.", "{m}; {m2}.", "Above all, {m}.", "More than anything, {m}.",
    "To my mind, {m}.",
    "I found {s} {adj}.", "Nobody could call {s} {opp}.", "There is nothing {opp} about {s}.",
    "{s} {is} {adj}, not {opp}.", "Never once did I find {s} {opp}.",
    "{relative} says that {m}, and I agree.",
    "As one critic wrote, {m}.", "I had been told that {m}, and it is true.",
    "{m}; not only that, but {m2}.",
    "{react}.", "{react}.", "{react}, and {m}.",
)  # fmt: skip

# {good} and {bad} are words for and against the verdict; {film} is a word for a film.
COMPARISONS = (
    "I expected something {bad} and got something {good}.",
    "I got something {good} where I had expected something {bad}.",
    "What I had taken for {a} {bad} {film} turned out to be {a} {good} one.",
    "The trailer makes it look {bad}. It is {good}.",
    "The book was {bad}; the {film} is anything but.",
    "The first film in the series was {bad}; this one is not.",
    "The first film in the series was {good}, and so is this one.",
    "The book was {good} and {good2}, and so is the {film}.",
    "Where the book was {bad}, the {film} is {good}.",
    "It is not {bad}, it is not {bad2}, and it is certainly not {bad3}.",
    "It is less {bad} than {good}.",
    "It looks {bad} at first, and then it becomes {good}.",
    "To me, this is {a} {good} {film}, not {a} {bad} one.",
    "Far from being {bad}, it is {good}.", "Calling it {bad} would be wrong.",
    "Some of it is {bad}, but most of it is {good}.",
    "Not everything in it is {good}, but very little is {bad}.",
    "I cannot call it {bad}.", "I would call it {good}.",
    "I have seen {bad} films this year, and this is not one of them.",
    "Nothing in it is as {bad} as the title.",
    "The last {film} I saw was {bad}. This one is the opposite.",
    "The title is {bad}; the {film} is not.",
)  # fmt: skip

ARTICLE_EXCEPTIONS = {"one", "unique", "useful", "european"}
RELATIVES = listed(
    "my sister, my brother, my father, my mother, my neighbour, a friend of mine, my aunt, my "
    "cousin, my old teacher"
)
FILMS = listed("film, movie, picture")
TITLE_FIRST = listed(
    "Quiet, Crooked, Borrowed, Distant, Seventh, Hollow, Painted, Northern, Hidden, Silver, "
    "Patient, Wandering"
)
TITLE_SECOND = listed(
    "Harbour, Orchard, Lantern, Ferry, Staircase, Piano, Lighthouse, Winter, Letter, Garden, "
    "Bridge, Clock"
)
FIRST_NAMES = listed(
    "Anna, Bruno, Clara, David, Elsa, Felix, Greta, Hugo, Irene, Jonas, Marta, Nina, Oscar, "
    "Ruth, Simon"
)
LAST_NAMES = listed(
    "Abbot, Brandt, Carver, Dorn, Ellis, Fenn, Harlow, Keller, Lund, Moreau, Novak, Quill, Rowe, "
    "Vale"
)
HEROES = (
    "a retired baker", "a young surgeon", "a brilliant chess player", "a lonely widow",
    "a piano tuner",
    "a night nurse", "a bored clerk", "a taxi driver", "a failed poet", "a happy farmer",
    "a ship's cook",
    "a clever pickpocket", "a village doctor", "a former boxer", "a young mother",
    "a railway inspector",
    "a gentle giant", "a gifted painter", "a miserable landlord", "a librarian",
    "a clumsy detective",
    "a schoolteacher", "a puppet maker", "a tired judge", "a charming swindler", "a country vet",
    "a stubborn widower",
    "an awful singer", "an old sailor", "a shy waiter",
)  # fmt: skip
DEEDS = (
    "inherits a failing hotel", "finds a letter from a dead friend",
    "has to share a house with an old enemy",
    "is mistaken for a famous spy", "goes home after thirty years",
    "loses everything in a terrible storm",
    "adopts a difficult child", "plans one perfect robbery", "falls in love with the wrong person",
    "tries to save a beautiful old theatre", "is the only witness to a dreadful crime",
    "learns to swim at sixty",
    "sets out to find a lost brother", "takes a dull job in a bank",
    "moves next door to a horrible family",
    "discovers a wonderful secret in the attic", "is sent to close a school", "buys a haunted boat",
    "must give a speech at a wedding", "crosses the mountains on foot", "starts a small restaurant",
    "wakes up in a strange town", "wins a fortune and tells nobody", "writes letters to a stranger",
    "looks after a great but bitter musician", "has one winter to repair a church",
)  # fmt: skip
PLACES = (
    "in a small fishing village", "on a night train", "in a city without cars",
    "on an island in the north",
    "in the last days of a long war", "in a shabby seaside town", "in a lovely valley full of bees",
    "on the edge of the desert", "in a block of flats", "in the year of a great flood",
    "at a terrible boarding school",
    "in the kitchens of a grand hotel", "in a town where nothing ever happens", "on a river boat",
    "in the far future",
    "in a beautiful house that nobody can afford",
)  # fmt: skip
THINGS = (
    "a stolen violin", "a lost dog", "a wedding", "a broken radio", "a dreadful uncle",
    "a long walk in the snow",
    "a box of old photographs", "a handsome stranger", "a horse race", "a funeral",
    "a perfect cake", "an ugly lamp",
    "a quarrel over money", "a missing key", "a boring lecture on birds", "a charming thief",
    "a bicycle",
    "a train that never stops", "a song from the war", "an excellent soup", "a goat",
    "a nasty surprise at the bank",
)  # fmt: skip
OPENINGS = (
    "{title} is about {hero} who {deed}.", "{title} follows {hero} who {deed}.",
    "{title} is set {place}, where {hero} {deed}.", "In {title}, {hero} {deed}.",
    "{title} tells the story of {hero} who {deed} {place}.", "{hero} {deed}: so begins {title}.",
    "{name} plays {hero} who {deed}.", "This is the one in which {hero} {deed}.",
    "I saw {title} {when}.",
)  # fmt: skip
FACTS = (
    "Most of it takes place {place}.", "Meanwhile, {hero} {deed}.",
    "Along the way there is {thing}, {thing2} and {thing3}.",
    "There is also {thing}, and later {thing2}.",
    "{name} plays {hero}, and {name2} plays {hero2}.", "It lasts about two hours.",
    "It is based on a novel that I have not read.", "The cinema was half full.",
    "It was filmed in black and white.",
    "The title is explained in the first scene.", "Much of it is told in flashback.",
    "{name} wrote and directed it.",
    "{relative} came with me.", "There is hardly a word of dialogue for ten minutes.",
    "By the second hour, {hero} {deed}.", "It begins with {thing} and ends with {thing2}.",
    "{name} wrote the music.",
    "I will not say how {thing} comes into it.",
    "The rest of the story concerns {thing} and {hero}.",
    "The first scene takes place {place}, the last one {place2}.",
)  # fmt: skip
WHEN = listed(
    "on a wet Tuesday, last weekend, on the opening night, at a late show, at the local cinema, "
    "on my birthday, at a small festival, on the first day of the holidays"
)

# For pre-training only: short opinions on anything, and ratings.
MORE_WORDS = {
    True: listed(
        "nice, fine, superior, fabulous, flawless, stellar, phenomenal, awesome, incredible, "
        "stunning, gorgeous, "
        "hilarious, adorable, cute, friendly, helpful, tasty, delicious, comfortable, reliable, "
        "useful, fresh, cosy, "
        "smart, sweet, cool, super, beloved, joyful, elegant, interesting, inspiring, "
        "heartwarming, addictive, "
        "beautifully made, well made, well written, well acted, recommended, convincing, "
        "compelling, tender"
    ),
    False: listed(
        "nasty, inferior, gross, disgusting, useless, broken, rude, unfriendly, cold, slow, "
        "overpriced, dirty, "
        "noisy, faulty, cheap, fake, wrong, sad, offensive, dumb, idiotic, ludicrous, confusing, "
        "depressing, "
        "appalling, incompetent, uninteresting, wooden, flat, hollow, sickening, unreliable, "
        "inedible, hopeless, "
        "badly made, poorly made, badly written, badly acted, overrated, incoherent, unconvincing"
    ),
}
NOUNS = listed(
    "film, movie, story, book, show, series, meal, performance, evening, place, experience, "
    "product, ending, script"
)
SHORT_SUBJECTS = listed(
    "this, it, the film, the movie, the story, the book, the food, the service, the acting, the "
    "music, the place, "
    "the staff, the cast, the room, the whole thing, the plot, the show, everything, the script, "
    "the ending"
)
DEGREES = listed(
    "very, really, absolutely, truly, so, quite, simply, completely, utterly, thoroughly, just, "
    "incredibly"
)
FEELINGS = {
    True: (
        "I loved it", "I liked it", "I enjoyed it", "I loved every minute",
        "I enjoyed every minute", "I adored it",
        "I liked it a lot", "I would recommend it", "I can't wait to see it again", "don't miss it",
        "highly recommended", "it made me smile", "well worth seeing", "I will come back",
        "I had a great time",
        "it made me happy", "one of the best", "I was impressed", "it was worth the money",
        "what a joy",
        "what a treat", "a masterpiece", "a triumph", "a gem", "a delight",
        "I could watch it again and again",
        "do not miss it", "I was not disappointed", "better than I expected", "I did not regret it",
        "you will love it",
        "my favourite", "I was moved", "hardly a failure", "hardly a mess", "I laughed a lot",
        "I am a fan",
        "the best film of the year", "best evening ever", "the best thing I have seen in years",
        "I want more of it",
        "it made me laugh", "everyone should see it", "I recommend it to all",
        "I would recommend this to all my friends", "it made me laugh and weep",
        "worth every penny",
        "my heart was full",
    ),
    False: (
        "I hated it", "I disliked it", "I did not like it", "I didn't like it",
        "I don't recommend it",
        "I hated every minute", "I did not enjoy it", "I did not enjoy a single minute",
        "I would not recommend it",
        "avoid it", "it made me angry", "not worth seeing", "I will not come back",
        "I had a bad time",
        "it made me sad", "one of the worst", "I was not impressed", "it was a waste of money",
        "a waste of time",
        "what a bore", "what a mess", "a mess", "a disaster", "a failure", "a flop", "rubbish",
        "I could not finish it",
        "I walked out", "I fell asleep", "I was disappointed", "worse than I expected",
        "I regret it",
        "you will hate it", "I want my money back", "hardly a masterpiece", "hardly a treasure",
        "I was bored",
        "the worst film of the year", "worst evening ever", "the worst thing I have seen in years",
        "never again",
        "it made me cringe", "nobody should see it", "I recommend it to nobody",
        "I would not recommend this to my friends", "it made me groan and yawn",
        "not worth a penny",
        "it makes no sense",
    ),
}  # fmt: skip
SHORTS = (
    "{a} {good} {noun}.", "{a} {degree} {good} {noun}.", "{a} {good}, {good2} {noun}.",
    "{a} {degree} {good}, {good2} {noun}.", "What {a} {good} {noun}!", "{subject} was {good}.",
    "{subject} was {degree} {good}.", "{subject} is {good} and {good2}.",
    "{subject} was not {bad}.",
    "{subject} is not {bad} at all.", "Not {bad} at all.", "Not {bad}.", "Not {a} {bad} {noun}.",
    "{good}, {good2} and {good3}.", "{good}.", "{feel}.", "{feel}!", "{feel}.", "{feel}, {feel2}.",
    "{feel} and {feel2}.", "{subject} was never {bad}.", "{subject} wasn't {bad}.",
    "It isn't {bad}.",
    "I didn't find it {bad}.", "Hardly {bad}.", "It was far from {bad}.",
    "{subject} was anything but {bad}.",
    "Not {bad} at all, {feel}.", "{subject} was {good}, and {feel}.",
    "This is {a} {good} {noun}, and {feel}.",
    "I thought {subject} was {good}.", "I do not think that {subject} is {bad}.",
    "{subject} was {bad}, but {feel}.",
    "I found it {good}.", "Hardly {a} {bad} {noun}.", "{a} {good} little {noun}.",
    "No {noun} could be less {bad}.",
    "I expected {a} {bad} {noun}, but {feel}.",
)  # fmt: skip
RATINGS = {True: "good", False: "bad"}


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


class Writer:
    """Writes texts from the phrase bank, and avoids using a phrase twice in one text.

    Only `random.Random.random` is called, the one method that Python promises to keep for a given
    seed.
    """

    def __init__(self, seed: int):
        """Start from a seed."""
        self.rng = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.rng.random() < probability

    def pick(self, phrases):
        """Pick one of the phrases, an unused one where there is one."""
        fresh = [phrase for phrase in phrases if phrase not in self.used] or phrases
        phrase = fresh[int(self.rng.random() * len(fresh))]
        self.used.add(phrase)
        return phrase

    def aspect(self) -> Aspect | None:
        """Pick a side of the film that the text has not judged yet, None if there is none left."""
        return None if self.used.issuperset(ASPECTS) else self.pick(ASPECTS)

    def clause(self, good: bool) -> str | None:
        """Write a clause that praises or blames one side of the film, maybe with a negation."""
        side = self.aspect()
        if side is None:
            return None
        subject, plural = number(self.pick(side.subjects))
        kind = self.rng.random()
        if kind < 0.2:
            predicate = by_number(self.pick(side.does[good]), plural)
        else:
            verb = "are" if plural else "is"
            if kind < 0.42:
                how = self.pick(
                    (
                        "never",
                        "hardly",
                        "far from",
                        "anything but",
                        "not",
                        "by no means",
                        "not at all",
                    )
                )
                predicate = f"{verb} {how} {self.pick(side.words[not good])}"
            elif kind < 0.57:
                predicate = (
                    f"{verb} {self.pick(side.words[good])} and {self.pick(side.words[good])}"
                )
            else:
                predicate = f"{verb} {self.pick(side.words[good])}"
        return f"{subject} {predicate}"

    def fill(self, template: str, good: bool) -> str | None:
        """Fill the slots of a template for a verdict; None if the text has run out of sides to
        judge.
        """
        values = {}
        side = self.aspect() if "{s}" in template else None
        if side is not None:
            values["s"], plural = number(self.pick(side.subjects))
            values["is"] = "are" if plural else "is"
            values["adj"], values["opp"] = (
                self.pick(side.words[good]),
                self.pick(side.words[not good]),
            )
        for slot in re.findall(r"{(\w+)}", template):
            name = slot.rstrip("0123456789")
            if name in SLOTS:
                values[slot] = self.pick(SLOTS[name])
            elif name in ("c", "m"):
                values[slot] = self.clause(good == (name == "m"))
            elif name in ("good", "bad"):
                values[slot] = self.pick(self.words[good == (name == "good")])
            elif name == "title":
                values[slot] = f"The {self.pick(TITLE_FIRST)} {self.pick(TITLE_SECOND)}"
            elif name == "name":
                values[slot] = f"{self.pick(FIRST_NAMES)} {self.pick(LAST_NAMES)}"
            elif name == "react":
                values[slot] = self.pick(REACTIONS[good])
            elif name == "feel":
                values[slot] = self.pick(FEELINGS[good])
            elif name == "a":
                values[slot] = "a"
            if values.get(slot) is None:
                return None
        return polish(template.format(**values))

    def opinion(self, good: bool) -> str | None:
        """Write a sentence or two that speak for the verdict; None if there is nothing left to
        judge.
        """
        kind = self.rng.random()
        return self.fill(
            self.pick(next(templates for limit, templates in OPINIONS if kind < limit)), good
        )

    def review(self, good: bool) -> str:
        """Write one review with a good or a bad verdict."""
        self.used = set()
        self.words = WORDS
        shortest, longest = self.pick(LENGTHS)
        length = shortest + int(self.rng.random() * (longest - shortest))
        start = [self.fill(self.pick(OPENINGS), good)] if self.chance(0.75) else []
        verdict = self.pick(VERDICTS[good])
        place = self.rng.random()
        if place < 0.25:
            start.insert(0, verdict)
        end = [verdict] if place > 0.25 else []
        body, judged = [], False
        while not judged or count_words(start + body + end) < length:
            kind = self.rng.random()
            if kind < 0.2 and judged:
                sentence = self.fill(self.pick(FACTS), good)
            else:
                sentence = self.opinion(good)
                judged = judged or sentence is not None
            if sentence is not None and count_words(start + body + end + [sentence]) <= MOST_WORDS:
                body.append(sentence)
        return " ".join(start + body + end)

    def short_text(self, good: bool) -> str:
        """Write one or two short sentences of one mind, on a film or something else."""
        self.used = set()
        self.words = {good: WORDS[good] + MORE_WORDS[good] for good in WORDS}
        sentences = [self.opinion(good) if self.chance(0.5) else self.fill(self.pick(SHORTS), good)]
        if self.chance(0.3):
            sentences.append(self.fill(self.pick(SHORTS), good))
        elif self.chance(0.3):
            sentences.append(self.pick(VERDICTS[good]))
        return " ".join(sentences)


# What a sentence is taken from: the first entry whose limit is above a random number.
OPINIONS = ((0.48, PLAIN), (0.75, TURNS), (0.81, LONG_TURNS), (1.0, COMPARISONS))
LENGTHS = ((20, 35), (25, 50), (40, 80), (70, 170))
SLOTS = {
    "relative": RELATIVES, "film": FILMS, "hero": HEROES, "deed": DEEDS, "place": PLACES,
    "thing": THINGS, "when": WHEN,
    "noun": NOUNS, "subject": SHORT_SUBJECTS, "degree": DEGREES,
}  # fmt: skip


def number(subject: str) -> tuple[str, bool]:
    """Split a subject into its text and whether it is plural."""
    return subject.rstrip("*"), subject.endswith("*")


def by_number(predicate: str, plural: bool) -> str:
    """Resolve ``{singular|plural}`` in a predicate."""
    return re.sub(r"{(.*?)\|(.*?)}", lambda match: match[1 + plural], predicate)


def polish(text: str) -> str:
    """Begin every sentence with a capital letter and put "an" for "a" before a vowel."""
    text = re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
    return re.sub(
        r"\b([Aa]) (?=([aeiou][\w-]*))",
        lambda match: match[0] if match[2].split("-")[0] in ARTICLE_EXCEPTIONS else f"{match[1]}n ",
        text,
    )


def count_words(sentences: list[str]) -> int:
    """Count the words of some sentences."""
    return sum(len(sentence.split()) for sentence in sentences)


def make_reviews(
    seed: int, sizes: dict[str, int] = SPLIT_SIZES
) -> dict[str, list[tuple[str, str]]]:
    """Write as many reviews for each split as `sizes` says, half of them positive."""
    writer = Writer(seed)
    seen = set()
    splits = {}
    for split, size in sizes.items():
        rows = []
        while len(rows) < size:
            good = len(rows) % 2 == 1
            text = writer.review(good)
            if text not in seen:
                seen.add(text)
                rows.append((text, LABELS[good]))
        splits[split] = sorted(rows, key=lambda row: writer.rng.random())
    return splits


def write_reviews(splits: dict[str, list[tuple[str, str]]], folder: Path) -> None:
    """Write each split to a CSV file with the columns text and label."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with open(folder / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows(rows)


def make_pretraining_texts(seed: int, size: int, exclude: set[str]) -> list[tuple[str, str]]:
    """Write texts with ratings for pre-training: first only short opinions, then more and more
    reviews.
    """
    writer = Writer(seed)
    rated = []
    while len(rated) < size:
        good = writer.chance(0.5)
        text = (
            writer.review(good)
            if writer.chance(0.7 * len(rated) / size)
            else writer.short_text(good)
        )
        if text not in exclude:
            rated.append((text, RATINGS[good]))
    return rated


# --------------------------------------------------------------------------------------------------
# Tokenizer and model
# --------------------------------------------------------------------------------------------------

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer(texts: list[str], pieces: int = 120) -> DistilBertTokenizer:
    """Make a lower-casing WordPiece tokenizer that knows the words of some texts.

    All other words are put together from the most frequent beginnings and ends of the known words,
    and from single characters. Ties are broken by the alphabet, so that the vocabulary depends on
    the texts alone.
    """
    words = Counter(word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))
    starts, ends = Counter(), Counter()
    for word in words:
        for length in range(2, min(5, len(word))):
            starts[word[:length]] += 1
            ends["##" + word[-length:]] += 1
    letters = string.digits + string.ascii_lowercase
    tokens = [
        *SPECIAL_TOKENS,
        *string.punctuation,
        *"‘’“”–—…£€",
        *letters,
        *("##" + letter for letter in letters),
    ]
    for counter, size in ((words, len(words)), (starts, pieces), (ends, pieces)):
        tokens += sorted(counter, key=lambda token: (-counter[token], token))[:size]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return DistilBertTokenizer(
        vocabulary, model_max_length=MAX_LENGTH, model_input_names=["input_ids", "attention_mask"]
    )


def make_model(tokenizer: DistilBertTokenizer) -> DistilBertForMaskedLM:
    """Make a tiny DistilBERT with random weights."""
    return DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_LENGTH,
            dim=96,
            hidden_dim=192,
            n_layers=3,
            n_heads=4,
            initializer_range=0.08,
            attention_dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def masking_rates(tokenizer: DistilBertTokenizer) -> torch.Tensor:
    """Say for each token how often it is masked: words of opinion more often than others, special
    tokens never.
    """
    rates = torch.full((len(tokenizer),), 0.05)
    opinions = [word for words in (WORDS, MORE_WORDS) for side in words.values() for word in side]
    opinions += [word for side in ASPECTS for words in side.words.values() for word in words]
    rates[
        tokenizer.convert_tokens_to_ids([word for word in opinions if word in tokenizer.vocab])
    ] = 0.1
    rates[tokenizer.all_special_ids] = 0.0
    return rates


def mask(
    input_ids: torch.Tensor, rates: torch.Tensor, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide tokens as BERT does: 80 % become [MASK], 10 % another token, 10 % stay. Return inputs
    and labels.
    """
    chosen = torch.rand(input_ids.shape) < rates[input_ids]
    labels = input_ids.masked_fill(~chosen, -100)
    fate = torch.rand(input_ids.shape)
    hidden = input_ids.masked_fill(chosen & (fate < 0.8), mask_id)
    random_ids = torch.randint(len(rates), input_ids.shape)
    return torch.where(chosen & (fate >= 0.9), random_ids, hidden), labels


def guess(model: DistilBertForMaskedLM, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the mean loss of guessing some tokens, none perhaps, from their hidden states."""
    hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    loss = torch.nn.functional.cross_entropy(model.vocab_projector(hidden), target, reduction="sum")
    return loss / max(len(target), 1)


def make_batches(
    tokenizer: DistilBertTokenizer, rated: list[tuple[str, str]], size: int, chunk: int = 2048
) -> Iterator:
    """Yield batches of about equally long texts, but keep the texts roughly in their order."""
    for start in range(0, len(rated), chunk):
        near = sorted(rated[start : start + chunk], key=lambda pair: len(pair[0]))
        for index in torch.randperm(-(-len(near) // size)).tolist():
            texts, ratings = zip(*near[index * size : (index + 1) * size], strict=True)
            batch = tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt")
            yield (
                batch["input_ids"],
                batch["attention_mask"],
                torch.tensor(tokenizer.convert_tokens_to_ids(ratings)),
            )


def pretrain(
    model: DistilBertForMaskedLM,
    tokenizer: DistilBertTokenizer,
    rated: list[tuple[str, str]],
    batch_size: int = 16,
    learning_rate: float = 1e-3,
) -> None:
    """Train the model to fill in masked words, and the rating behind [CLS], in one pass over the
    texts.

    The rating is no part of the text. It is the word to be guessed at [CLS], so that this token
    learns to take in the text as a whole, which in BERT is the use of next sentence prediction.
    """
    rates = masking_rates(tokenizer)
    steps = -(-len(rated) // batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    model.eval()  # Dropout would only slow down a model that sees no text twice.
    totals = torch.zeros(2)
    batches = make_batches(tokenizer, rated, batch_size)
    for step, (input_ids, attention_mask, ratings) in enumerate(batches, start=1):
        inputs, labels = mask(input_ids, rates, tokenizer.mask_token_id)
        hidden = model.distilbert(inputs, attention_mask=attention_mask).last_hidden_state
        chosen = labels != -100
        losses = torch.stack(
            (guess(model, hidden[chosen], labels[chosen]), guess(model, hidden[:, 0], ratings))
        )
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        totals += losses.detach()
        if step % 1000 == 0 or step == steps:
            words, rating = (totals / ((step - 1) % 1000 + 1)).tolist()
            totals.zero_()
            print(
                f"pre-training step {step}/{steps}: loss {words:.3f} words, {rating:.3f} ratings",
                flush=True,
            )


def main(argv: list[str] | None = None) -> None:
    """Write the reviews and the pre-trained model."""
    parser = argparse.ArgumentParser(
        description="Make the sample reviews and the tiny pre-trained DistilBERT."
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path(__file__).parent,
        help="where to write (default: here)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--texts", type=int, default=160000, help="number of texts for pre-training"
    )
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    torch.set_num_threads(
        1
    )  # The order of sums, and with it the last bit of a weight, depends on the threads.
    splits = make_reviews(args.seed)
    write_reviews(splits, args.output_dir / "reviews")
    own = {text for rows in splits.values() for text, _ in rows}
    rated = make_pretraining_texts(args.seed + 1, args.texts, exclude=own)
    tokenizer = make_tokenizer([text for text, _ in rated])
    tokenizer.save_pretrained(
        args.output_dir / "model"
    )  # before its use, which sets padding and truncation
    model = make_model(tokenizer)
    print(
        f"{len(tokenizer)} tokens, {model.num_parameters()} parameters, {len(rated)} texts for "
        "pre-training"
    )
    start = time.perf_counter()
    pretrain(model, tokenizer, rated)
    print(f"pre-trained in {time.perf_counter() - start:.0f} seconds")
    model.save_pretrained(args.output_dir / "model")


if __name__ == "__main__":
    main()
