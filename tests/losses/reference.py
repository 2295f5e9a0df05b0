"""Reference losses in float64 NumPy, from their formulas, with one loop per sum where it helps.

The inputs are those on which the authors' PyTorch code gave the values in test_published.py.
"""

import numpy as np


def wave(function, shape, factor, phase, size=1.0):
    """``size * function(factor * n + phase)`` with n the index in C order."""
    return size * function(factor * np.arange(np.prod(shape)) + phase).reshape(shape)


def image_map(function, shape, factor, phase):
    """Returns a map with channels last; ``shape`` is [batch, channels, height, width]."""
    return wave(function, shape, factor, phase).transpose(0, 2, 3, 1)


LABELS = np.array([0, 3, 5, 9, 2, 7])
LOGITS = wave(np.sin, (6, 10), 0.9, 0.3, 3.0), wave(np.cos, (6, 10), 0.7, -0.2, 4.0)
EMBEDDINGS = wave(np.sin, (6, 12), 0.53, 0.1), wave(np.cos, (6, 12), 0.47, 0.2)
MAPS = [
    (image_map(np.sin, (6, 6, 8, 8), 0.31, 0.1), image_map(np.cos, (6, 6, 8, 8), 0.23, 0.4)),
    (image_map(np.sin, (6, 8, 4, 4), 0.37, 0.2), image_map(np.cos, (6, 8, 4, 4), 0.29, 0.5)),
    (image_map(np.sin, (6, 10, 4, 4), 0.41, 0.3), image_map(np.cos, (6, 10, 4, 4), 0.19, 0.6)),
]


def log_softmax64(logits, axis=-1, where=None):
    """Returns log-softmax in float64, over the classes in ``where`` only."""
    logits = np.asarray(logits, np.float64)
    if where is not None:
        logits = np.where(where, logits, -np.inf)
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def kl64(student, teacher, temperature, axis=-1, where=None):
    """Returns T^2 times the divergence of the student from the teacher, in float64."""
    student, teacher = np.broadcast_arrays(
        np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    )
    log_q = log_softmax64(student / temperature, axis, where)
    log_p = log_softmax64(teacher / temperature, axis, where)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        parts = np.where(p > 0, p * (log_p - log_q), 0.0)
    return temperature**2 * parts.sum(axis=axis)


def cross_entropy64(logits, labels, smoothing=0.0):
    """Returns the cross entropy with smoothed labels, in float64."""
    log_q = log_softmax64(logits)
    classes = log_q.shape[-1]
    labels = np.broadcast_to(labels, log_q.shape[:-1])
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return -(targets * log_q).sum(axis=-1)


def random_logits(*shape, seed=0, scale=3.0):
    """Returns normally distributed float32 numbers."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def softmax(logits, temperature=1.0):
    shifted = logits / temperature - np.max(logits / temperature, axis=-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def soft_target_kl(z, t, temperature=4.0):
    return np.mean(temperature**2 * kl(softmax(t, temperature), softmax(z, temperature)))


def dkd(z, t, labels=LABELS, target_weight=1.0, other_weight=8.0, temperature=4.0):
    total = 0.0
    for student, teacher, label in zip(z, t, labels, strict=True):
        q, p = softmax(student, temperature), softmax(teacher, temperature)
        q_y, p_y = q[label], p[label]
        target = p_y * np.log(p_y / q_y) + (1 - p_y) * np.log((1 - p_y) / (1 - q_y))
        others = kl(np.delete(p, label) / (1 - p_y), np.delete(q, label) / (1 - q_y))
        total += temperature**2 * (target_weight * target + other_weight * others)
    return total / len(z)


def nkd(z, t, labels=LABELS, other_weight=1.5, temperature=1.0):
    total = 0.0
    for student, teacher, label in zip(z, t, labels, strict=True):
        total -= softmax(teacher)[label] * np.log(softmax(student)[label])
        q = softmax(np.delete(student, label), temperature)
        p = softmax(np.delete(teacher, label), temperature)
        total -= other_weight * temperature**2 * np.sum(p * np.log(q))
    return total / len(z)


def correlation(first, second):
    first, second = first - first.mean(), second - second.mean()
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-8)


def dist(z, t, inter_weight=1.0, intra_weight=1.0, temperature=1.0):
    q, p = softmax(z, temperature), softmax(t, temperature)
    inter = 1 - np.mean([correlation(p[i], q[i]) for i in range(len(p))])
    intra = 1 - np.mean([correlation(p[:, k], q[:, k]) for k in range(p.shape[1])])
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def standardize(z):
    return (z - z.mean(-1, keepdims=True)) / (z.std(-1, keepdims=True, ddof=1) + 1e-7)


def mlkd_batch(z, t, temperature=4.0):
    q, p = softmax(z, temperature), softmax(t, temperature)
    return np.sum((p @ p.T - q @ q.T) ** 2) / len(z)


def mlkd_class(z, t, temperature=4.0):
    q, p = softmax(z, temperature), softmax(t, temperature)
    return np.sum((p.T @ p - q.T @ q) ** 2) / z.shape[1]


def rows_of_length_one(matrix):
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


def attention_transfer(s, t):
    def attention(values):
        return rows_of_length_one(np.mean(values**2, axis=-1).reshape(len(values), -1))

    return np.mean((attention(s) - attention(t)) ** 2)


def similarity_preserving(s, t):
    def similarities(values):
        flat = values.reshape(len(values), -1)
        return rows_of_length_one(flat @ flat.T)

    return np.sum((similarities(s) - similarities(t)) ** 2) / len(s) ** 2


def nst(s, t):
    """Computes NST in its kernel's feature space: from mean outer products, [pixels, pixels]."""

    def mean_outer(values):
        channels = rows_of_length_one(values.reshape(-1, values.shape[-1]).T)
        return channels.T @ channels / len(channels)

    return np.mean(
        [np.sum((mean_outer(a) - mean_outer(b)) ** 2) for a, b in zip(s, t, strict=True)]
    )


def huber(first, second):
    error = np.abs(first - second)
    return np.where(error < 1, 0.5 * error**2, error - 0.5)


def rkd(s, t, distance_weight=25.0, angle_weight=50.0):
    def relations(embedding):
        batch = len(embedding)
        to = embedding[None] - embedding[:, None]
        distances = np.sqrt((to**2).sum(-1))
        mean = distances.sum() / (batch * (batch - 1))
        directions = to / np.maximum(distances, 1e-12)[..., None]
        return distances / mean, np.einsum("ijd,ikd->ijk", directions, directions)

    (d_s, a_s), (d_t, a_t) = relations(s), relations(t)
    return distance_weight * huber(d_s, d_t).mean() + angle_weight * huber(a_s, a_t).mean()


def pkt(s, t):
    def neighbours(embedding):
        unit = rows_of_length_one(embedding)
        similarity = (unit @ unit.T + 1) / 2
        return similarity / similarity.sum(axis=1, keepdims=True)

    q, p = neighbours(s), neighbours(t)
    return np.mean(p * np.log((p + 1e-7) / (q + 1e-7)))


def vid(mean, teacher, variance=5.0):
    return np.mean(0.5 * ((mean - teacher) ** 2 / variance + np.log(variance)))


def mean_pool(values, size):
    """Returns the means over non-overlapping windows."""
    batch, height, width, channels = values.shape
    cells = values.reshape(batch, size, height // size, size, width // size, channels)
    return cells.mean(axis=(2, 4))


def review_kd(student_maps, teacher_maps):
    total = 0.0
    for s, t in zip(student_maps, teacher_maps, strict=True):
        sizes = [size for size in (4, 2, 1) if size < s.shape[1]]
        weights = [0.5**power for power in range(len(sizes) + 1)]
        errors = [np.mean((s - t) ** 2)]
        errors += [np.mean((mean_pool(s, size) - mean_pool(t, size)) ** 2) for size in sizes]
        total += np.dot(weights, errors) / np.sum(weights)
    return total


def fsp(s1, s2, t1, t2):
    def flow(first, second):
        size = min(first.shape[1], second.shape[1])
        first, second = mean_pool(first, size), mean_pool(second, size)
        return np.einsum("bhwc,bhwd->bcd", first, second) / size**2

    return np.mean((flow(s1, s2) - flow(t1, t2)) ** 2)


def crd(v_s, v_t, memory_s, memory_t, indices, negatives, temperature=0.07):
    """Computes the released code's sums score by score, with normalisers from this batch."""
    examples = len(memory_s)
    values = np.zeros(len(v_s))
    for vectors, memory in ((v_s, memory_t), (v_t, memory_s)):
        scores = np.empty((len(v_s), 1 + negatives.shape[1]))
        for row, vector in enumerate(rows_of_length_one(vectors)):
            for column, example in enumerate([indices[row], *negatives[row]]):
                scores[row, column] = np.exp(vector @ memory[example] / temperature)
        scores /= scores.mean() * examples
        noise = negatives.shape[1] / examples
        values -= np.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7))
        values -= np.log(noise / (scores[:, 1:] + noise + 1e-7)).sum(axis=1)
    return values
