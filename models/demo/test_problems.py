"""Test problems for the demo pair that nothing was made from.

Draws problems with a seed of their own and drops every one whose question was
among those that tokenizer and models were trained on (train_pair.py: 20,000 of
seed 0, then 64 a step of seeds 1,000,000 and up; train.log shows fewer than
2,000 steps for either model), occurs in a file given with --avoid, or came
before.
"""
import argparse
import json
import random
import sys

from word_problems import problem, problems

STEPS = 2_000
SIZE = 64


def seen(files):
    questions = {p["question"] for p in problems(0, 20_000)}
    for step in range(STEPS):
        questions.update(p["question"] for p in problems(1_000_000 + step, SIZE))
    for name in files:
        with open(name) as file:
            questions.update(json.loads(line)["question"] for line in file if line.strip())
    return questions


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=9001)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--avoid", nargs="*", default=[], metavar="FILE.jsonl")
    args = parser.parse_args()
    known = seen(args.avoid)
    rng, kept, dropped = random.Random(args.seed), 0, 0
    while kept < args.count:
        row = problem(rng)
        if row["question"] in known:
            dropped += 1
            continue
        known.add(row["question"])
        kept += 1
        print(json.dumps(row))
    print(f"{dropped} dropped", file=sys.stderr)
