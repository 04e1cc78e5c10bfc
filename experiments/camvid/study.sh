#!/usr/bin/env bash
# The study on CamVid, part by part: bash experiments/camvid/study.sh PART [--cfg-options ...]
#   train     every run on train + val, tested on test: three seeds of the main ones at patch 16
#   swap      their checkpoints under another attention, as they are and after a short fine-tune
#   analyze   routing and gradients by layer, and a sweep over landmarks and keys in testing
#   time-stock-recipe, time-p16, time-p8   training loops: the stock recipe; ours, and without graphs
#   list      prints all runs as tools/compare.py takes them, and variants that no part runs
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
sources='p16_full p16_mita-encdec p16_mita-compress'
main='p16_full p16_mita-dec p16_mita-encdec p16_mita-compress p16_mita-route p16_mita-route-2k
    p16_mita-invdim'
rest='p8_full p8_mita-encdec p16_stock-head p16_mita-s2 p16_mita-dwc p16_mita-dwc-gate'
stock_recipe='p16_full-stock-recipe p16_mita-encdec-stock-recipe p16_stock-head-stock-recipe'
others='p8_stock-head p8_mita-dec p8_mita-compress p8_mita-route p8_mita-s2 p8_mita-invdim
    p8_mita-dwc p8_mita-dwc-gate'

# A run is a config of configs/mita_segmenter_camvid, or one of them with other settings.
config() { # config p16_mita-route
    local base
    case $1 in
    *_full* | p16_mita-dec | *_mita-encdec) base=$1 ;;
    *-stock-recipe) base=p16_full-stock-recipe ;;
    *_stock-head | p8_mita-dec) base=${1%%_*}_full ;;
    *) base=${1%%_*}_mita-encdec ;;
    esac
    echo "configs/mita_segmenter_camvid/mita-segmenter_vit-t-${base}_1xb16-4k_camvid-352x480.py"
}

# Its settings beside that config.
settings() { # settings p16_mita-route
    case $1 in
    *_mita-compress) attention topk=0 ;;
    *_mita-route) attention shared=False ;;
    p16_mita-route-2k) attention shared=False topk=96 ;; # as many products as mita-encdec
    *_mita-s2) attention num_routed=2 ;;
    *_mita-invdim) attention landmark_scale=inverse_dim ;;
    *_mita-dwc) attention dwc=True ;;
    *_mita-dwc-gate) attention dwc=True gate=True ;;
    *_mita-encdec-stock-recipe)
        attention _delete_=True type=MiTAAttention 'landmarks=(6,8)' topk=48
        ;;
    p8_mita-dec)
        below model.decode_head.attn_cfg _delete_=True type=MiTAAttention 'landmarks=(7,9)' topk=63
        ;;
    *_stock-head*) # MMSegmentation's own head: nn.MultiheadAttention, and a loss that waits
        below model.decode_head _delete_=True type=SegmenterMaskTransformerHead \
            in_channels=192 channels=192 embed_dims=192 num_classes=11 num_layers=2 num_heads=3 \
            drop_path_rate=0.0 dropout_ratio=0.0 loss_decode.type=CrossEntropyLoss \
            loss_decode.use_sigmoid=False loss_decode.loss_weight=1.0
        ;;
    esac
}

below() { printf "$1.%s\n" "${@:2}"; } # below model.backbone KEY=VALUE...
attention() { # attention KEY=VALUE...: of encoder and decoder
    below model.backbone.attn_cfg "$@"
    below model.decode_head.attn_cfg "$@"
}

# As tools/compare.py takes them.
runs() { # runs p16_full p16_mita-route
    local name options
    for name in "$@"; do
        options=$(settings "$name" | paste -sd,)
        echo "$(config "$name")@$name${options:+:$options}"
    done
}

checkpoint() { ls "$out/train/$1/seed$2"/iter_*.pth; } # checkpoint p16_full 0

train() { # train FOLDER JOBS SEEDS NAMES [OPTION of compare.py]
    python tools/compare.py $(runs $4) --work-dir "$out/$1" --seeds $3 --jobs "$2" "${@:5}" \
        --cfg-options "${final[@]}" "${never_validate[@]}" "${more[@]}"
}

time_training() { # time_training FOLDER NAME [CFG_OPTION...]
    local options=($(settings "$2") "${@:3}")
    python tools/benchmark.py training "$(config "$2")" --out "$out/$1/$2" \
        ${options:+--cfg-options} "${options[@]}"
}

case $part in
train)
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
    for source in $sources; do
        started=()
        for seed in 0 1 2; do
            file=$(checkpoint "$source" $seed)
            python tools/compare.py $(runs $sources) --work-dir "$out/swap/$source-seed$seed" --jobs 3 \
                --test-only "$file" "$file" "$file" --cfg-options "${test_split[@]}" "${more[@]}" &
            started+=($!)
        done
        # Compiling would take longer than so few iterations.
        python tools/compare.py $(runs $sources) --work-dir "$out/swap/$source-tuned" --jobs 3 \
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
        python tools/analyze_routing.py "$(config $name)" "$(checkpoint $name 0)" \
            --work-dir "$out/routing/$name" \
            --cfg-options $(settings $name) "${test_split[@]}" "${more[@]}"
    done
    python tools/sweep_experts.py "$(config p16_mita-encdec)" "$(checkpoint p16_mita-encdec 0)" \
        --work-dir $out/sweep --cfg-options "${test_split[@]}" "${more[@]}"
    ;;
time-stock-recipe)
    for name in $stock_recipe; do time_training "$part" $name "${more[@]}"; done
    ;;
time-p16 | time-p8)
    for name in "${part#time-}_full" "${part#time-}_mita-encdec"; do
        time_training "$part" "$name" "${more[@]}"
        time_training "$part-eager" "$name" "${eager[@]}" "${more[@]}"
    done
    ;;
list)
    runs $main $rest $stock_recipe $others
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
