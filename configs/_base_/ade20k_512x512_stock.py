# Segmenter on ADE20K, trained as MMSegmentation's own parts do it: every image is scaled, cropped
# and changed in colour by the loader's processes, in float32.
_base_ = [
    './models/mita_segmenter_vit.py',
    './datasets/ade20k_512x512.py',
    './schedules/schedule_160k.py',
    './default_runtime.py',
]
