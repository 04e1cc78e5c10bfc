"""The compiled module of mmcv, ``mmcv._ext``, with every operator's name and none of its work.

``import mmseg`` of the upstream family wants the names; what Segmenter and MiTA do needs none of
the operators. ``make test-upstream`` puts this file beside mmcv-lite, which lacks the module.
"""


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*_, **__):
        raise NotImplementedError(f'mmcv-lite has no compiled operators, {name} among them')

    return operator
