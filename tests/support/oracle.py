"""MiTA attention by its definition alone: loops over images, heads and queries, in float64.

Written from the equations of arXiv 2602.01219, and for the remainder from the words of
`mita_attention`, but from no code in `mita_seg`, so that an error there is not repeated here.
Gradients come from autograd. Slow; for a few dozen tokens.
"""

import math

import torch


def choose(scores, count):
    """Places of the `count` largest scores, of equal ones the first places."""
    scores = scores.tolist()
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]


def attend_in_head(
    query, key, value, landmarks, topk, num_routed, scale, landmark_scale, shared, shared_offset,
    remainder,
):  # fmt: skip
    """One head: query, key, value [N, d], landmarks [m, d] -> [N, d]."""
    topk = min(topk, len(key))
    experts, shared_values = [], []
    for landmark in landmarks:
        scores = key @ landmark
        experts.append(choose(scores, topk))
        shared_values.append((scale * scores).softmax(0) @ value)
    outputs = []
    for one in query:
        closeness = landmarks @ one
        logits, values = [], []
        if shared:
            logits.append(landmark_scale * closeness + shared_offset)
            values.append(torch.stack(shared_values))
        for expert in choose(closeness, num_routed if topk else 0):
            logits.append(scale * (key[experts[expert]] @ one))
            values.append(value[experts[expert]])
            outside = [place for place in range(len(key)) if place not in experts[expert]]
            if remainder and outside:
                at_landmark = scale * (key[outside] @ landmarks[expert])
                weights = at_landmark.softmax(0)
                change = scale * torch.dot(one - landmarks[expert], weights @ key[outside])
                logits.append((at_landmark.logsumexp(0) + change).view(1))
                values.append((weights @ value[outside]).unsqueeze(0))
        outputs.append(torch.cat(logits).softmax(0) @ torch.cat(values))
    return torch.stack(outputs)


def attend(
    query,
    key,
    value,
    landmarks,
    *,
    topk,
    num_routed=1,
    scale=None,
    landmark_scale=None,
    shared=True,
    shared_offset=0.0,
    remainder=False,
):
    """query, key, value [B, H, N, d], landmarks [B, H, m, d], float64 -> [B, H, N, d]."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    landmark_scale = scale if landmark_scale is None else landmark_scale
    output = torch.zeros_like(query)
    for image in range(query.shape[0]):
        for head in range(query.shape[1]):
            rows = (tensor[image, head] for tensor in (query, key, value, landmarks))
            output[image, head] = attend_in_head(
                *rows, topk, num_routed, scale, landmark_scale, shared, shared_offset, remainder
            )
    return output


def full_attention(query, key, value, scale=None):
    """softmax(c Q K^T) V, all [B, H, N, d]."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return (scale * query @ key.transpose(2, 3)).softmax(-1) @ value


def pool(query, grid, num_landmarks, start=0):
    """Queries [B, H, N, d] -> landmarks [B, H, mh * mw, d], means over windows of the patch map."""

    def windows(size, count):
        """Window i holds each place that overlaps [i * size / count, (i + 1) * size / count]."""
        for index in range(count):
            first, last = index * size, (index + 1) * size
            yield [place for place in range(size)
                   if place * count < last and (place + 1) * count > first]  # fmt: skip

    rows, columns = (list(windows(*pair)) for pair in zip(grid, num_landmarks, strict=True))
    means = []
    for window_rows in rows:
        for window_columns in columns:
            places = [start + grid[1] * row + column for row in window_rows
                      for column in window_columns]  # fmt: skip
            means.append(query[:, :, places].mean(2))
    return torch.stack(means, 2)


def cluster(query, landmarks, steps, rounding):
    """Landmarks after steps of spherical k-means, with equal norms; all [B, H, rows, d].

    Returns:
        tuple[Tensor, Tensor]: The landmarks, and whether each head's are the same whatever the
        rounding, bool [B, H].
    """
    clustered, clear = [], torch.ones(query.shape[:2], dtype=torch.bool)
    for image in range(query.shape[0]):
        for head in range(query.shape[1]):
            marks = list(landmarks[image, head])
            for _ in range(steps):
                joined = [[] for _ in marks]
                for one in query[image, head]:
                    cosines = [
                        torch.dot(one, mark) / mark.norm().clamp(min=1e-12) for mark in marks
                    ]
                    (winner,) = choose(torch.stack(cosines), 1)
                    joined[winner].append(one)
                    for loser in range(len(marks)):
                        margin = (cosines[winner] - cosines[loser]).item()
                        if rounding and loser != winner and margin <= 2 * rounding * one.norm():
                            clear[image, head] = False
                marks = [
                    torch.stack(own).mean(0) if own else mark
                    for own, mark in zip(joined, marks, strict=True)
                ]
            norms = torch.stack([mark.norm() for mark in marks])
            directions = [
                mark / norm.clamp(min=1e-12) for mark, norm in zip(marks, norms, strict=True)
            ]
            clustered.append(torch.stack(directions) * norms.mean())
    if not clustered:
        return landmarks, clear
    return torch.stack(clustered).view(landmarks.shape), clear


def clear_queries(query, key, landmarks, topk, num_routed, rounding):
    """Which queries attend to the same keys whatever the rounding, bool [B, H, N].

    Not those whose experts, or the keys of one of whose experts, win by less than rounding may
    change. Landmarks that are equal may stand for each other.

    Args:
        rounding: The largest error of a score, relative to the sum of its products' sizes.
    """
    clear = torch.ones(query.shape[:3], dtype=torch.bool)
    topk = min(topk, key.shape[2])
    if not topk or not rounding:
        return clear
    for image in range(query.shape[0]):
        for head in range(query.shape[1]):
            marks, keys = landmarks[image, head], key[image, head]
            sharp = []  # whether the keys of the expert are
            for mark in marks:
                scores = keys @ mark
                kept = choose(scores, topk)
                left = [place for place in range(len(keys)) if place not in kept]
                margin = (scores[kept].min() - scores[left].max()).item() if left else math.inf
                sharp.append(margin > 2 * rounding * (keys.abs() @ mark.abs()).max().item())
            for token, one in enumerate(query[image, head]):
                closeness = marks @ one
                error = rounding * (marks.abs() @ one.abs()).max().item()
                kept = choose(closeness, num_routed)
                clear[image, head, token] = all(sharp[expert] for expert in kept) and all(
                    closeness[winner] - closeness[loser] > 2 * error
                    for winner in kept
                    for loser in range(len(marks))
                    if loser not in kept and not torch.equal(marks[winner], marks[loser])
                )
    return clear
