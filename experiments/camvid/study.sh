#!/usr/bin/env bash
# The study on CamVid, part by part: bash configs/mita_segmenter_camvid/study.sh PART [--cfg-options ...]
#   train     every variant on train + val, tested on test: three seeds of the main ones at patch 16
#   swap      their checkpoints under another attention, as they are and after a short fine-tune
#   analyze   routing and gradients by layer, and a sweep over landmarks and keys in testing
#   time-stock-recipe, time-p16, time-p8   training loops: the stock recipe; ours, and without graphs
# JOBS trainings run at a time (default 8), spread over the GPUs. An interrupted part goes on where it
# was. Further options go to every config of the part. Results: work_dirs/camvid-study.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
part=${1:-}
shift || true
[ "${1:-}" = --cfg-options ] && shift
more=("$@")
jobs=${JOBS:-8}
out=work_dirs/camvid-study
final=(train_dataloader.dataset.split=trainval test_dataloader.dataset.split=test)
test_split=(test_dataloader.dataset.split=test)
never_validate=(train_cfg.val_begin=1000000) # nothing is chosen by it
eager=(model.type=EncoderDecoder)
sources=(p16_full p16_mita-encdec p16_mita-compress)

stem() { echo "mita-segmenter_vit-t-$1_1xb16-4k_camvid-352x480"; } # stem p16_full
configs() { for name in "$@"; do echo "configs/mita_segmenter_camvid/$(stem "$name").py"; done; }
checkpoint() { ls "$out/train/$(stem "$1")/seed$2"/iter_*.pth; } # checkpoint p16_full 0

train() { # train FOLDER JOBS SEEDS VARIANTS [OPTION of compare.py]
    local configs=$(configs $4)
    python tools/compare.py $configs --work-dir "$out/$1" --seeds $3 --jobs "$2" "${@:5}" \
        --cfg-options "${final[@]}" "${never_validate[@]}" "${more[@]}"
}

time_training() { # time_training FOLDER VARIANTS [CFG_OPTION...]
    local configs=$(configs $2)
    python tools/benchmark.py training $configs --out "$1" ${3:+--cfg-options} "${@:3}"
}

case $part in
train)
    main='p16_full p16_mita-dec p16_mita-encdec p16_mita-compress p16_mita-route p16_mita-invdim'
    rest='p8_full p8_mita-encdec p16_stock-head p16_mita-s2 p16_mita-dwc p16_mita-dwc-gate'
    if [ ! -d $out/train ]; then # both groups at the same time, each in a folder of its own
        third=$((jobs < 3 ? 1 : jobs / 3))
        train train-rest $third 0 "$rest" --no-timing &
        train train-main $((jobs > third ? jobs - third : 1)) "0 1 2" "$main" --no-timing
        wait $!
        mkdir -p $out/joined
        mv $out/train-main/*/ $out/train-rest/*/ $out/joined
        mv $out/joined $out/train
        rm -r $out/train-main $out/train-rest
    fi
    train train 1 "0 1 2" "$main" # what is left to do: size and speed, one model at a time
    train train 1 0 "$rest"
    ;;
swap)
    for source in "${sources[@]}"; do
        started=()
        for seed in 0 1 2; do
            file=$(checkpoint "$source" $seed)
            python tools/compare.py $(configs "${sources[@]}") --work-dir "$out/swap/$source-seed$seed" \
                --jobs 3 --test-only "$file" "$file" "$file" --cfg-options "${test_split[@]}" \
                "${more[@]}" &
            started+=($!)
        done
        # Compiling would take longer than so few iterations.
        python tools/compare.py $(configs "${sources[@]}") --work-dir "$out/swap/$source-tuned" --jobs 3 \
            --cfg-options "${final[@]}" "${never_validate[@]}" "${eager[@]}" \
            load_from="$(checkpoint "$source" 0)" train_cfg.max_iters=400 param_scheduler.0.end=40 \
            param_scheduler.1.begin=40 param_scheduler.1.end=400 optim_wrapper.optimizer.lr=1e-4 \
            "${more[@]}" &
        started+=($!)
        for process in "${started[@]}"; do wait "$process"; done
    done
    ;;
analyze)
    for name in p16_mita-encdec p16_mita-invdim p16_mita-route p16_mita-dec p8_mita-encdec; do
        python tools/analyze_routing.py "$(configs $name)" "$(checkpoint $name 0)" \
            --work-dir "$out/routing/$name" --cfg-options "${test_split[@]}" "${more[@]}"
    done
    python tools/sweep_experts.py "$(configs p16_mita-encdec)" "$(checkpoint p16_mita-encdec 0)" \
        --work-dir $out/sweep --cfg-options "${test_split[@]}" "${more[@]}"
    ;;
time-stock-recipe)
    stock='p16_full-stock-recipe p16_mita-encdec-stock-recipe p16_stock-head-stock-recipe'
    time_training "$out/$part" "$stock" "${more[@]}"
    ;;
time-p16 | time-p8)
    both="${part#time-}_full ${part#time-}_mita-encdec"
    time_training "$out/$part" "$both" "${more[@]}"
    time_training "$out/$part-eager" "$both" "${eager[@]}" "${more[@]}"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
