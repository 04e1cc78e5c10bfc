"""Whether a config's decode heads have as many classes as its data."""


def compare_class_counts(model, dataset, loader):
    """Compare the heads' ``num_classes`` with the classes of a data set.

    Heads of one channel (``num_classes=1``) tell two classes apart. Auxiliary heads with
    ``out_channels=1`` may look for something else, such as boundaries. A data set that names no
    classes is left alone.

    Args:
        model (dict, optional): The config's model.
        dataset (BaseSegDataset): The data set.
        loader (str): The config's name of its loader, for the sentence.

    Returns:
        list[str]: A sentence for each head with more classes than the data.

    Raises:
        ValueError: A head has fewer classes than the data.
    """
    classes = dataset.metainfo.get('classes')
    if not classes:
        return []
    more = []
    for name, head in _heads(model):
        number = head.get('num_classes')
        if not isinstance(number, int) or number == len(classes):
            continue
        if number == 1 and len(classes) == 2:
            continue
        if 'auxiliary' in name and head.get('out_channels') == 1:
            continue
        numbers = (
            f'{name}.num_classes is {number}, but the {type(dataset).__name__} of {loader} has '
            f'{len(classes)} classes (its metainfo.classes)'
        )
        if number < len(classes):
            raise ValueError(f'{numbers}: they must be equal')
        more.append(f'{numbers}: nothing will teach the head the others')
    return more


def _heads(model):
    """The heads of a model's config and their places in it."""
    for key in ('decode_head', 'auxiliary_head'):
        heads = (model or {}).get(key)
        if isinstance(heads, dict):
            yield f'model.{key}', heads
        else:
            for index, head in enumerate(heads or ()):
                yield f'model.{key}[{index}]', head
