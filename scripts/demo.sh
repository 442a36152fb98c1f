#!/usr/bin/env bash
# What pre-training is good for: a network is trained on one dataset, goes on learning on another one with few cases,
# and is compared with one that saw those few cases only. Every command is printed as you would type it.
# Interrupted, by you or by a crash? Start it again: it goes on where it was. A finished demo repeats in seconds.
#
#   bash scripts/demo.sh                         artificial images; about 6 minutes on 2 cores, a GPU is used if there is one
#   DEMO_DATA=/path/to/nnUNet_raw bash ...       your own data: one dataset, or a folder of datasets DatasetXXX_Name. Of
#                                                several, the one with most training cases is pre-trained on, the one
#                                                with fewest is fine-tuned on. Trainings are short, to see that all runs
#   DEMO_FOLDER=/scratch/demo bash ...           another place than ./demo
#   DEMO_SHORT=1 bash ...                        a minute: few cases and iterations, so the figures mean nothing; in demo/short
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
. scripts/environment.sh
prepare_environment runtime

folder=${DEMO_FOLDER:-demo}
[ -z "${DEMO_SHORT:-}" ] || folder=$folder/short
[ -z "${DEMO_DATA:-}" ] || folder=$folder/own_data
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
trap 'status=$?; [ $status -eq 0 ] || echo "The demo stopped. Start it again, and it goes on from here." >&2' EXIT

bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() {
    local seconds=$((SECONDS - started))
    printf '\n%s[%d:%02d] %s%s\n' "$bold" $((seconds / 60)) $((seconds % 60)) "$*" "$plain"
}
run() {
    local word line=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:=,@%+-]*) word=\"$word\" ;; esac
        line="$line $word"
    done
    echo "\$$line"
    "$@"
}
number_of() { echo $((10#${1:7:3})); }
fold_of() { echo "$nnUNet_results/$1/${3}__${4}__$small/fold_$2"; }

# dataset, fold, trainer, plans, and further arguments of nnUNetv2_train for a training that begins
train() {
    local id fold=$2 trainer=$3 plans=$4 into
    id=$(number_of "$1")
    into=$(fold_of "$1" "$fold" "$trainer" "$plans")
    shift 4
    local what=(nnUNetv2_train "$id" "$small" "$fold" -tr "scripts/demo_trainers.py:$trainer" -p "$plans")
    if [ -f "$into/checkpoint_final.pth" ] && [ -f "$into/validation/summary.json" ]; then
        echo "Trained already: $into"
    elif compgen -G "$into/checkpoint_*.pth" > /dev/null; then
        run "${what[@]}" --c
    else
        run "${what[@]}" ${length[@]+"${length[@]}"} "$@"
    fi
}

length=() phantom=()
if [ -n "${DEMO_DATA:-}" ]; then
    length=(-epochs 2 -iterations 10)
elif [ -n "${DEMO_SHORT:-}" ]; then
    length=(-epochs 2 -iterations 5)
    phantom=(--small)
fi

say "Where everything is"
if [ -f "${DEMO_DATA:-}/dataset.json" ]; then
    nnUNet_raw=$(cd "$DEMO_DATA/.." && pwd)
    datasets=("$(cd "$DEMO_DATA" && basename "$PWD")")
elif [ -n "${DEMO_DATA:-}" ]; then
    nnUNet_raw=$(cd "$DEMO_DATA" && pwd)
else
    nnUNet_raw=$folder/nnUNet_raw
    datasets=(Dataset901_PhantomPretrain Dataset902_PhantomFinetune)
fi
nnUNet_preprocessed=$folder/nnUNet_preprocessed
nnUNet_results=$folder/nnUNet_results
export nnUNet_raw nnUNet_preprocessed nnUNet_results
for variable in nnUNet_raw nnUNet_preprocessed nnUNet_results; do
    echo "\$ export $variable=${!variable}"
    mkdir -p "${!variable}"
done
export nnUNet_compile=0 # on a GPU compiling would take longer than these trainings

if [ -z "${DEMO_DATA:-}" ]; then
    say "Two artificial datasets: 901 with many cases, 902 with few. Each has labels that the other one has not"
    run python scripts/make_phantom.py "$nnUNet_raw" ${phantom[@]+"${phantom[@]}"}
elif [ -z "${datasets:-}" ]; then
    datasets=()
    for dataset in "$nnUNet_raw"/Dataset[0-9][0-9][0-9]_*/dataset.json; do
        [ ! -f "$dataset" ] || datasets+=("$(basename "$(dirname "$dataset")")")
    done
fi
if [ ${#datasets[@]} -eq 0 ]; then
    echo "There is no folder DatasetXXX_Name with a dataset.json in $nnUNet_raw" >&2
    exit 1
fi

# the most cases first
cases_of() { grep -oE '"numTraining": *[0-9]+' "$nnUNet_raw/$1/dataset.json" | grep -oE '[0-9]+$' || echo 0; }
sorted=()
while read -r _ dataset; do sorted+=("$dataset"); done < <(
    for dataset in "${datasets[@]}"; do echo "$(cases_of "$dataset") $dataset"; done | sort -k1,1nr -k2
)
target=${sorted[${#sorted[@]} - 1]}
source=
[ ${#sorted[@]} -eq 1 ] || source=${sorted[0]}
id=$(number_of "$target")
plans_file=$nnUNet_preprocessed/$target/nnUNetPlans.json

role="finetuning dataset"
[ -n "$source" ] || role=dataset
say "The $role, $target: check it, measure it, plan a network"
run nnUNetv2_plan_and_preprocess -d "$id" --verify_dataset_integrity --no_pp
configuration=3d_fullres
grep -q '"3d_fullres"' "$plans_file" || configuration=2d
small=${configuration}_small
echo
echo "A network with a quarter of the features can be trained while you watch:"
run python scripts/make_small_configuration.py "$plans_file" $configuration

say "Preprocess $target: crop, normalise, resample"
run nnUNetv2_preprocess -d "$id" -c $configuration

if [ -n "$source" ]; then
    say "The pretraining dataset, $source: it follows the same plans, so that its weights will fit"
    run nnUNetv2_extract_fingerprint -d "$(number_of "$source")" --verify_dataset_integrity
    echo
    if run nnUNetv2_move_plans_between_datasets -s "$id" -t "$(number_of "$source")" -sp nnUNetPlans -tp pretrainPlans; then
        echo
        run nnUNetv2_preprocess -d "$(number_of "$source")" -plans_name pretrainPlans -c $configuration
    else
        echo "These two datasets do not go together; the demo goes on without pre-training."
        source=
    fi
fi

trainers=(FromScratch)
names=("from scratch")
if [ -n "$source" ]; then
    say "Pre-train on all cases of $source"
    train "$source" all PreTrained pretrainPlans
    say "Fine-tune: train on the few cases of $target, beginning with these weights"
    # adapt: the outputs of labels that both have begin with what they were, too
    train "$target" 0 FineTuned nnUNetPlans -transfer adapt \
        -pretrained_weights "$(fold_of "$source" all PreTrained pretrainPlans)/checkpoint_final.pth"
    trainers+=(FineTuned)
    names+=("fine-tuned")
    say "From scratch: the same without these weights, for comparison"
else
    say "Train on $target"
fi
train "$target" 0 FromScratch nnUNetPlans

folds=()
predicted=()
for trainer in "${trainers[@]}"; do folds+=("$(fold_of "$target" 0 "$trainer" nnUNetPlans)"); done
if compgen -G "$nnUNet_raw/$target/imagesTs/*" > /dev/null; then
    for trainer in "${trainers[@]}"; do
        say "Predict the test images: $trainer"
        output=$folder/predictions/$trainer
        run nnUNetv2_predict -d "$id" -i "$nnUNet_raw/$target/imagesTs" -o "$output" -c "$small" -tr "$trainer" -f 0 \
            --continue_prediction
        predicted+=("$output")
        [ -d "$nnUNet_raw/$target/labelsTs" ] || continue
        echo
        run nnUNetv2_evaluate_folder "$nnUNet_raw/$target/labelsTs" "$output" -djfile "$output/dataset.json" -pfile "$output/plans.json"
    done
fi

say "A page about the trainings, with curves and pictures, for your browser"
if [ ${#folds[@]} -gt 1 ]; then
    run nnUNetv2_report compare "${folds[@]}" -names "${names[@]}" -o "$folder/report.html"
else
    run nnUNetv2_report training "${folds[@]}" -o "$folder/report.html"
fi

if [ -f "${predicted:-}/summary.json" ]; then
    say "Dice on the test images of $target, which no training has seen (1 is perfect)"
    run python scripts/show_dice.py "${predicted[@]}" -names "${names[@]}"
else
    say "Dice on the validation cases of $target (1 is perfect)"
    run python scripts/show_dice.py "${folds[@]}" -names "${names[@]}"
fi

echo
if [ -n "${DEMO_DATA:-}${DEMO_SHORT:-}" ]; then
    echo "These trainings were far too short to be any good; they show that everything runs."
fi
echo "Report:       $folder/report.html"
[ ${#predicted[@]} -eq 0 ] || echo "Predictions:  $folder/predictions"
echo "Models:       $nnUNet_results"
say "Done"
