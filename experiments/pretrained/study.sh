#!/usr/bin/env bash
# MiTA in a pretrained encoder, part by part: bash experiments/pretrained/study.sh PART [OPTION...]
#   weights            converts the pretrained weights; the other parts do it if it has not been done
#   calibrate          how near each layer is to full attention, with which offset of the shared
#                      expert; those of mita and mita-kmeans are trained with, and found when needed
#   probe              a linear classifier on features of the encoder, which is not trained
#   camvid, facades    trains every run on train (CamVid: train + val), tests on test
#   recall             what the experts hold of full attention's mass, by layer, after `camvid full`
#   choose             costs of each layer of mita-kmeans-calibrated and mita-kmeans (or RUNS), after
#                      `camvid full`; a config with NUMBER of them (8): mita-chosen,
#                      mita-chosen-annealed-distilled, mita-kmeans-chosen and, of RUNS,
#                      mita-kmeans-remainder-chosen, mita-kmeans-remainder-chosen-annealed
#   small              the like at a size for a CPU: learning rates of the encoder, k-means, both aids
#   swap               each seed of `camvid full` tested with the attention of RUNS, trained no more
#   time               the forward pass of one image of PIXELS (1568)
#   time-training      a training iteration, all models in turn
#   list               prints all runs as tools/compare.py takes them
# RUNS names some of the runs (those of `choose` are not among all), SEEDS the seeds (default
# "0 1 2"), JOBS how many run at a time (default 4). An interrupted part goes on where it was. OPTIONs
# go to every config as --cfg-options. SETS: of camvid and facades those that probe (default camvid),
# recall, choose, swap, time-training and list are for.
# Results: work_dirs/pretrained.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
part=${1:-}
shift || true
[ "${1:-}" = --cfg-options ] && shift
more=("$@")
data=${MITA_SEG_DATA:-data}
out=work_dirs/pretrained
seeds=${SEEDS:-0 1 2}
jobs=${JOBS:-4}
weights=$out/dinov2-vits14.safetensors
all='full full-distilled mita-dec mita mita-annealed mita-distilled mita-annealed-distilled
    mita-calibrated mita-calibrated-annealed-distilled mita-offset mita-more-landmarks
    mita-more-keys mita-s2 mita-registers mita-route
    mita-equal-norms mita-kmeans mita-kmeans-annealed-distilled mita-kmeans-calibrated
    mita-kmeans-calibrated-annealed-distilled mita-kmeans-calibrated-from-3
    mita-kmeans-calibrated-from-3-annealed-distilled mita-kmeans-more-landmarks
    mita-kmeans-more-keys mita-kmeans-remainder
    full-lr1 full-distilled-lr1 mita-lr1 mita-annealed-distilled-lr1 mita-kmeans-calibrated-lr1
    mita-kmeans-calibrated-annealed-distilled-lr1
    mita-kmeans-calibrated-from-3-annealed-distilled-lr1'

# The attention of encoder and decoder: the landmarks' windows are squares, as many keys as experts.
attention() { # attention LANDMARKS KEYS [KEY=VALUE...]: of both
    local part
    for part in backbone decode_head; do
        one_attention $part "$@"
    done
}

one_attention() { # one_attention backbone LANDMARKS KEYS [KEY=VALUE...]
    printf "model.$1.attn_cfg.%s\n" _delete_=True type=MiTAAttention "landmarks=($2)" "topk=$3" "${@:4}"
}

usual() { # usual camvid
    case $1 in
    camvid) echo 6,8 48 ;;
    facades) echo 8,8 64 ;;
    small) echo 4,6 24 ;;
    esac
}

encoder() { one_attention backbone $(usual "$1"); } # encoder camvid

annealed() { # annealed camvid
    local values='[512,256,128]' end=800 # the map of CamVid has 851 tokens
    [ "$1" = facades ] && values='[1024,512,256,128]'
    [ "$1" = small ] && values='[128,64,32]' && end=266
    printf 'default_hooks.anneal.%s\n' type=AnnealMiTAHook end=$end "values=$values"
}

distilled() { # distilled camvid
    local end=400
    [ "$1" = small ] && end=130
    printf 'default_hooks.distill.%s\n' type=DistillMiTAHook end=$end
}

# Settings of a run beside its config.
settings() { # settings camvid mita-s2
    local usual=($(usual "$1")) larger=(9,12 108)
    [ "$1" = facades ] && larger=(14,14 196)
    [ "$1" = small ] && larger=(6,8 48)
    case $2 in
    *-lr[0-9]*) # of the encoder, as a part of the decoder's
        settings "$1" "${2%-lr[0-9]*}" &&
            echo optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult="${2##*-lr}"
        ;;
    full) ;;
    full-distilled) # annealing that never begins: full attention, held to its own first weights
        one_attention backbone "${usual[@]}" && distilled "$1" &&
            printf 'default_hooks.anneal.%s\n' type=AnnealMiTAHook begin=100000 end=100001
        ;;
    mita-dec) one_attention decode_head "${usual[@]}" ;;
    mita) attention "${usual[@]}" ;;
    mita-annealed) attention "${usual[@]}" && annealed "$1" ;;
    mita-distilled) attention "${usual[@]}" && distilled "$1" ;;
    mita-annealed-distilled) attention "${usual[@]}" && annealed "$1" && distilled "$1" ;;
    # The config of these has a list: MiTA with an offset in each layer of the encoder.
    mita-calibrated | mita-kmeans-calibrated | mita-kmeans-calibrated-from-3) ;;
    mita-chosen | mita-kmeans-chosen | mita-kmeans-remainder-chosen) ;;
    mita-*calibrated*-annealed-distilled | mita-chosen-annealed-distilled)
        annealed "$1" && distilled "$1"
        ;;
    mita-offset) attention "${usual[@]}" shared_offset=2.0 ;;
    mita-more-landmarks) attention "${larger[0]}" "${usual[1]}" ;;
    mita-more-keys) attention "${larger[@]}" ;;
    mita-s2) attention "${usual[@]}" num_routed=2 ;;
    mita-registers) attention "${usual[@]}" && echo model.backbone.num_registers=4 ;;
    mita-equal-norms) attention "${usual[@]}" kmeans_steps=0 ;;
    mita-kmeans) attention "${usual[@]}" kmeans_steps=1 ;;
    mita-kmeans2) attention "${usual[@]}" kmeans_steps=2 ;;
    mita-kmeans-annealed-distilled)
        attention "${usual[@]}" kmeans_steps=1 && annealed "$1" && distilled "$1"
        ;;
    mita-kmeans-more-landmarks) attention "${larger[0]}" "${usual[1]}" kmeans_steps=1 ;;
    mita-kmeans-more-keys) attention "${larger[@]}" kmeans_steps=1 ;;
    mita-kmeans-only-keys) attention "${usual[0]}" "${larger[1]}" kmeans_steps=1 ;;
    mita-kmeans-s2) attention "${usual[@]}" kmeans_steps=1 num_routed=2 ;;
    mita-qkv-lr) attention "${usual[@]}" ;; # of small, a config of its own
    mita-route) attention "${usual[0]}" $((2 * usual[1])) shared=False ;; # as many products
    mita-kmeans-route)
        attention "${usual[0]}" $((2 * usual[1])) shared=False kmeans_steps=1
        ;;
    mita-kmeans-remainder)
        attention "${usual[0]}" $((2 * usual[1])) shared=False remainder=True kmeans_steps=1
        ;;
    mita-kmeans-remainder-annealed)
        settings "$1" mita-kmeans-remainder && settings "$1" mita-kmeans-remainder-chosen-annealed
        ;;
    mita-kmeans-remainder-chosen-annealed)
        annealed "$1" | sed 's/256,128/256/' # experts end with 128 keys on the facades
        ;;
    mita-kmeans-remainder-usual-keys)
        attention "${usual[@]}" shared=False remainder=True kmeans_steps=1
        ;;
    mita-kmeans-remainder-more-keys)
        attention "${usual[0]}" $((4 * usual[1])) shared=False remainder=True kmeans_steps=1
        ;;
    mita-kmeans-remainder-more-landmarks)
        attention "${larger[0]}" "${usual[1]}" shared=False remainder=True kmeans_steps=1
        ;;
    *) echo "no run is called $2" >&2 && return 1 ;;
    esac
}

config() { # config camvid mita
    case $2 in
    mita-calibrated*) echo $out/calibrated/"$1/mita/$1_calibrated.py" ;;
    *-from-3*) echo $out/calibrated/"$1/mita-kmeans/$1_from_3.py" ;;
    mita-kmeans-calibrated*) echo $out/calibrated/"$1/mita-kmeans/$1_calibrated.py" ;;
    mita-qkv-lr) echo experiments/pretrained/"$1_qkv_lr.py" ;;
    mita-chosen*) echo $out/choose/"$1/mita-kmeans-calibrated/$1_calibrated_chosen.py" ;;
    *-chosen*) echo $out/choose/"$1/${2%-chosen*}/$1_chosen.py" ;;
    *) echo experiments/pretrained/"$1.py" ;;
    esac
}

# As tools/compare.py takes them.
runs() { # runs camvid full mita
    local name options
    for name in "${@:2}"; do
        options=$(settings "$1" "$name" | paste -sd,)
        echo "$(config "$1" "$name")@$name${options:+:$options}"
    done
}

options() { # options camvid: what all runs of a data set share
    echo "model.backbone.init_cfg.checkpoint=$weights"
    if [ "$1" = camvid ]; then
        echo train_dataloader.dataset.split=trainval
        echo test_dataloader.dataset.split=test
    fi
}

convert() {
    [ -f $weights ] && return
    mkdir -p $out
    python tools/convert_checkpoint.py "$data/dinov2-vits14/dinov2_vits14_fp16.safetensors" $weights
}

calibrate() { # calibrate camvid mita
    convert
    [ -f $out/calibrated/"$1/$2/$1_calibrated.py" ] && return
    python tools/calibrate_offsets.py experiments/pretrained/"$1".py --images 8 \
        --work-dir $out/calibrated/"$1/$2" --data-root "$data/$1" \
        --cfg-options model.backbone.init_cfg.checkpoint=$weights $(settings "$1" "$2")
    # Full attention in the first two layers, which are the farthest from it.
    cat > $out/calibrated/"$1/$2/$1_from_3.py" << END
_base_ = './$1_calibrated.py'
full = dict(type='FullAttention')
model = dict(backbone=dict(attn_cfg=[full, full] + _base_.model.backbone.attn_cfg[2:]))
END
}

data_of() { # data_of small
    echo "$data/${1/small/camvid}"
}

train() { # train camvid [OPTION of compare.py...]
    convert
    case ${RUNS:-$all} in *mita-calibrated*) calibrate "$1" mita ;; esac
    case ${RUNS:-$all} in *kmeans-calibrated*) calibrate "$1" mita-kmeans ;; esac
    python tools/compare.py $(runs "$1" ${RUNS:-$all}) --work-dir $out/"$1" --seeds $seeds \
        --jobs "$jobs" --data-root "$(data_of "$1")" "${@:2}" \
        --cfg-options $(options "$1") "${more[@]}"
}

# checkpoint camvid full 0
checkpoint() { ls $out/"$1/$2"/seed"${3:-0}"/iter_*.pth | sort -V | tail -1; }

case $part in
weights) convert ;;
calibrate)
    for name in camvid facades; do
        for run in ${RUNS:-mita mita-equal-norms mita-kmeans mita-kmeans2}; do
            calibrate $name "$run"
        done
    done
    ;;
probe)
    convert
    for name in ${SETS:-camvid}; do
        images='--train-images 156 --test-images 117'
        [ "$name" = facades ] && images='--train-images 45 --test-images 30'
        for run in ${RUNS:-full mita mita-calibrated mita-equal-norms mita-kmeans mita-kmeans2 \
            mita-kmeans-calibrated mita-kmeans-calibrated-from-3 mita-more-keys mita-s2}; do
            case $run in *-calibrated*) calibrate "$name" "${run%-calibrated*}" ;; esac
            python experiments/pretrained/linear_probe.py "$(config "$name" "$run")" "$run" \
                --work-dir $out/probe/"$name" $images --data-root "$data/$name" \
                --cfg-options $(options "$name") $(settings "$name" "$run")
        done
    done
    ;;
camvid | facades) train "$part" ;;
small)
    RUNS=${RUNS:-full-lr1 full-distilled-lr1 full full-lr0.03 mita mita-kmeans \
        mita-annealed-distilled mita-kmeans-annealed-distilled} train small --no-timing
    ;;
recall)
    for name in ${SETS:-camvid facades}; do
        python tools/analyze_routing.py experiments/pretrained/$name.py "$(checkpoint $name full)" \
            --as-full --work-dir $out/recall/$name --data-root "$data/$name" \
            --cfg-options $(encoder $name) $(options $name) "${more[@]}"
    done
    ;;
choose)
    for name in ${SETS:-camvid facades}; do
        # On validation images, which training has seen in CamVid's case.
        for run in ${RUNS:-mita-kmeans-calibrated mita-kmeans}; do
            case $run in *-calibrated) calibrate $name mita-kmeans ;; esac
            python tools/choose_layers.py "$(config $name "$run")" "$(checkpoint $name full)" \
                --number ${NUMBER:-8} --work-dir $out/choose/"$name/$run" --data-root "$data/$name" \
                --cfg-options model.backbone.init_cfg.checkpoint=$weights \
                $(settings $name "$run") "${more[@]}"
        done
    done
    ;;
swap)
    names=${RUNS:-full mita mita-kmeans mita-kmeans-remainder}
    for name in ${SETS:-camvid facades}; do
        for seed in $seeds; do
            files=$(for run in $names; do checkpoint $name full $seed; done)
            python tools/compare.py $(runs $name $names) --work-dir $out/swap/"$name-seed$seed" \
                --jobs "$jobs" --no-timing --data-root "$data/$name" --test-only $files \
                --cfg-options $(options $name) "${more[@]}"
        done
    done
    ;;
time-training)
    for name in ${SETS:-camvid facades}; do
        python experiments/pretrained/time_training.py $(runs $name ${RUNS:-full mita mita-kmeans \
            mita-kmeans-route mita-kmeans-remainder mita-kmeans-remainder-usual-keys}) \
            --out $out/time/$name
    done
    ;;
time)
    names=${RUNS:-full mita-dec mita mita-kmeans mita-kmeans-calibrated \
        mita-kmeans-calibrated-from-3 mita-kmeans-more-keys mita-kmeans-route mita-kmeans-remainder}
    case $names in *calibrated*) calibrate facades mita-kmeans ;; esac
    python experiments/pretrained/time_forward.py $(runs facades $names) \
        --pixels ${PIXELS:-1568} --out $out/time
    ;;
list)
    for name in ${SETS:-camvid facades}; do runs $name ${RUNS:-$all}; done
    ;;
*)
    sed -n '2,23s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
