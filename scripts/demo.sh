#!/usr/bin/env bash
# The main job from raw images to a pre-trained and fine-tuned network and its predictions, in ./demo, on artificial images.
# Every command is printed as you would type it. Repeating the demo takes seconds: finished work is kept.
#
#   scripts/demo.sh                           artificial images (about 3 minutes on 2 cores; a GPU is used if there is one)
#   DEMO_DATA=/path/to/nnUNet_raw scripts/demo.sh       your own datasets (folders DatasetXXX_Name)
#   DEMO_FOLDER=/scratch/demo scripts/demo.sh           another place than ./demo
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
prepare_environment runtime

folder=${DEMO_FOLDER:-demo}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
started=$SECONDS

bold=; plain=
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# dataset, fold, trainer, and further arguments of nnUNetv2_train; a finished training is not repeated
small=3d_fullres_small
train() {
    local dataset=$1 fold=$2 trainer=$3 plans=nnUNetPlans word previous= found
    shift 3
    for word in "$@"; do
        [ "$previous" = -p ] && plans=$word
        previous=$word
    done
    found=("$nnUNet_results/Dataset${dataset}_"*/"${trainer}__${plans}__$small/fold_$fold")
    if [ -f "${found[0]}/checkpoint_final.pth" ] && [ -f "${found[0]}/validation/summary.json" ]; then
        echo "Trained already: ${found[0]}"
    elif [ -d "${found[0]}" ]; then
        run nnUNetv2_train "$dataset" $small "$fold" -tr "scripts/demo_trainers.py:$trainer" -p "$plans" --c
    else
        run nnUNetv2_train "$dataset" $small "$fold" -tr "scripts/demo_trainers.py:$trainer" "$@"
    fi
}

say "Where everything is"
if [ -n "${DEMO_DATA:-}" ]; then
    nnUNet_raw=$(cd "$DEMO_DATA" && pwd)
    nnUNet_preprocessed=$folder/own_data/nnUNet_preprocessed
    nnUNet_results=$folder/own_data/nnUNet_results
else
    nnUNet_raw=$folder/nnUNet_raw
    nnUNet_preprocessed=$folder/nnUNet_preprocessed
    nnUNet_results=$folder/nnUNet_results
fi
export nnUNet_raw nnUNet_preprocessed nnUNet_results
export nnUNet_compile=0 # on a GPU compiling takes longer than these trainings
mkdir -p "$nnUNet_preprocessed" "$nnUNet_results"
for variable in nnUNet_raw nnUNet_preprocessed nnUNet_results; do
    echo "$ export $variable=${!variable}"
done

if [ -z "${DEMO_DATA:-}" ]; then
    say "Two artificial datasets: 901 to pre-train on, 902 to fine-tune on"
    run python scripts/make_phantom.py "$nnUNet_raw"
fi

datasets=()
for dataset in "$nnUNet_raw"/Dataset[0-9][0-9][0-9]_*; do
    [ -f "$dataset/dataset.json" ] && datasets+=("$(basename "$dataset")")
done
if [ ${#datasets[@]} -eq 0 ]; then
    echo "There is no folder DatasetXXX_Name with a dataset.json in $nnUNet_raw" >&2
    exit 1
fi
ids=()
for dataset in "${datasets[@]}"; do ids+=("$((10#${dataset:7:3}))"); done

if [ -z "${DEMO_DATA:-}" ]; then
    finetuning=902
    pretraining=901
    say "The finetuning dataset: check it, measure it, plan, preprocess"
    run nnUNetv2_plan_and_preprocess -d $finetuning --verify_dataset_integrity
    say "Other plans for the same data: a residual encoder (there are three sizes)"
    run nnUNetv2_plan_experiment -d $finetuning -pl nnUNetPlannerResEncM
    say "A network with a quarter of the features, so that it can be trained while you watch"
    run python scripts/make_small_configuration.py "$nnUNet_preprocessed/Dataset902_PhantomFinetune/nnUNetPlans.json" 3d_fullres
    say "The pretraining dataset is measured too, ..."
    run nnUNetv2_extract_fingerprint -d $pretraining --verify_dataset_integrity
    say "... but it follows the plans of the finetuning dataset, so that its weights will fit"
    run nnUNetv2_move_plans_between_datasets -s $finetuning -t $pretraining -sp nnUNetPlans -tp pretrainPlans
    run nnUNetv2_preprocess -d $pretraining -plans_name pretrainPlans -c 3d_fullres
    say "Is everything on disk still as it was written?"
    run nnUNetv2_preprocess -d $pretraining -plans_name pretrainPlans -c 3d_fullres --verify
    say "Pre-training on all cases of $pretraining"
    train $pretraining all PreTrained -p pretrainPlans
    pretrained=$(echo "$nnUNet_results/Dataset${pretraining}_"*/PreTrained__pretrainPlans__$small/fold_all/checkpoint_final.pth)
    say "Fine-tuning on 4 cases of $finetuning, beginning with these weights"
    train $finetuning 0 FineTuned -pretrained_weights "$pretrained"
    say "The same training from scratch, for comparison"
    train $finetuning 0 FromScratch
else
    say "Check, measure, plan and preprocess"
    run nnUNetv2_plan_and_preprocess -d "${ids[@]}" --verify_dataset_integrity
    if [ ${#ids[@]} -gt 1 ]; then
        say "If ${datasets[1]} were to be used for pre-training, it would need the plans of ${datasets[0]}"
        run nnUNetv2_move_plans_between_datasets -s "${ids[0]}" -t "${ids[1]}" -sp nnUNetPlans -tp pretrainPlans ||
            echo "These two do not go together; the demo goes on."
    fi
fi

if [ -z "${DEMO_DATA:-}" ]; then
    say "Dice of the one case that neither training has seen (seconds of training show how it goes, not how good it gets)"
    python scripts/show_dice.py "$nnUNet_results/Dataset${finetuning}_"*/{FromScratch,FineTuned}__*/fold_0
fi

if [ -z "${DEMO_DATA:-}" ]; then
    raw=$(echo "$nnUNet_raw/Dataset${finetuning}_"*)
    say "Images that no training has seen, with the fine-tuned network"
    run nnUNetv2_predict -d $finetuning -i "$raw/imagesTs" -o "$folder/predictions" -c $small -tr FineTuned -f 0 --continue_prediction
    say "How good are these predictions? (HD95: distance of surfaces in mm, the smaller the better)"
    run nnUNetv2_evaluate_folder "$raw/labelsTs" "$folder/predictions" -djfile "$folder/predictions/dataset.json" \
        -pfile "$folder/predictions/plans.json" --surface
    say "The model in a file, for others"
    run nnUNetv2_export_model_to_zip -d $finetuning -o "$folder/fine_tuned.zip" -c $small -tr FineTuned -f 0 --small
fi

say "What is there now"
for dataset in "${datasets[@]}"; do
    echo "$dataset"
    for plans in "$nnUNet_preprocessed/$dataset"/*lans*.json; do
        [ -f "$plans" ] && echo "  plans                    $(basename "$plans" .json)"
    done
    for data in "$nnUNet_preprocessed/$dataset"/*_{2d,3d_fullres,3d_lowres}; do
        [ -d "$data" ] || continue
        printf '  %-24s %s cases, %s\n' "$(basename "$data")" "$(find "$data" -name '*.pkl' | wc -l | tr -d ' ')" \
            "$(du -sh "$data" | cut -f1)"
    done
done
for model in "$nnUNet_results"/Dataset*/*/fold_*; do
    [ -f "$model/checkpoint_final.pth" ] && echo "trained: ${model#"$nnUNet_results"/}"
done
echo "Data is in $nnUNet_preprocessed, models are in $nnUNet_results"
echo "The demo took $((SECONDS - started)) s."
