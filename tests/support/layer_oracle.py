"""The attention layer by its definition alone, token by token where it helps, in float64."""

import torch


def attend_in_layer(parameters, x, grid, start, num_heads, mix):
    """Projections, norms, depthwise convolution and gate around an attention.

    Args:
        parameters: Name -> float64 tensor, as in the state of the layer; options that are off have
            none.
        x: Tokens [B, N, C], float64.
        grid: Patch map (h, w), row-major from token `start` on.
        start: The first patch.
        num_heads: Heads H.
        mix: (query, key, value [B, H, N, d]) -> [B, H, N, d]

    Returns:
        [B, N, C]
    """
    channels = x.shape[-1]
    dim = channels // num_heads

    def project(name, rows):
        bias = parameters.get(f'{name}.bias', 0)
        return rows @ parameters[f'{name}.weight'].T + bias

    def split(part):
        return torch.stack([part[..., dim * h : dim * (h + 1)] for h in range(num_heads)], 1)

    def normalise(name, rows):
        if f'{name}.weight' not in parameters:
            return rows
        centred = rows - rows.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * parameters[f'{name}.weight'] + parameters[f'{name}.bias']

    projected = project('qkv', x)
    query, key, value = (projected[..., channels * i : channels * (i + 1)] for i in range(3))
    query, key = normalise('q_norm', split(query)), normalise('k_norm', split(key))
    heads = mix(query, key, split(value))
    output = torch.cat([heads[:, head] for head in range(num_heads)], -1)
    if 'dwc.weight' in parameters:
        output = output + convolve(parameters, value, grid, start)
    if 'gate.weight' in parameters:
        gate = project('gate', x)
        output = output * gate / (1 + torch.exp(-gate))
    return project('proj', output)


def convolve(parameters, value, grid, start):
    """3x3 depthwise convolution of the patches of value [B, N, C]; 0 for special tokens."""
    height, width = grid
    kernel = parameters['dwc.weight'][:, 0]  # [C, 3, 3]
    result = [torch.zeros_like(value[:, 0]) for _ in range(value.shape[1])]
    for row in range(height):
        for column in range(width):
            total = parameters['dwc.bias'].expand_as(value[:, 0])
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        place = start + (row + down) * width + column + right
                        total = total + kernel[:, down + 1, right + 1] * value[:, place]
            result[start + row * width + column] = total
    return torch.stack(result, 1)
