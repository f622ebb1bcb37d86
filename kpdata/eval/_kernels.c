/* The loops over pairs of people that NumPy can only do by copying: the compiled half of `kernels.py`, which says what
   each is for and does the same without this module.

   Every sum, product and quotient is one rounding of doubles in NumPy's order, so that both ways give the same bits;
   exp and the sum over keypoints stay NumPy's own. Arrays come as contiguous buffers; their lengths, and positions of one
   in another, are checked before they are followed. No Python object is touched while a loop runs. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* a * b + c must round twice (where a compiler would fuse them: FMA machines) */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

typedef struct {
    Py_buffer view[10];
    int count;
} Views;

/* Buffers of the arguments, in the order of `format`: y to read, w to write. 0 with an exception set. */
static int take(Views *v, PyObject *args, const char *format) {
    v->count = 0;
    for (Py_ssize_t i = 0; format[i]; i++) {
        PyObject *item = PyTuple_GetItem(args, i);
        if (!item || PyObject_GetBuffer(item, v->view + i, format[i] == 'w' ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return 0;
        v->count++;
    }
    return 1;
}

static PyObject *give_back(Views *v, PyObject *result) {
    for (int i = 0; i < v->count; i++) PyBuffer_Release(v->view + i);
    return result;
}

static PyObject *unfit(Views *v, const char *name) {
    PyErr_Format(PyExc_ValueError, "%s: the arrays do not fit each other", name);
    return give_back(v, NULL);
}

static int outside(int64_t position, int64_t count) { return position < 0 || position >= count; }

/* extents(keypoints, rows, low, high): least and greatest x, y of the keypoints of each row, NaN where one is NaN. */
static PyObject *extents(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    if (!take(&v, args, "yyww")) return give_back(&v, NULL);
    Py_ssize_t n = v.view[1].len / 8, k = PyLong_AsSsize_t(PyTuple_GetItem(args, 4));
    if (k < 1 || v.view[2].len != n * 16 || v.view[3].len != n * 16) return unfit(&v, "extents");
    const double *xy = v.view[0].buf;
    const int64_t *rows = v.view[1].buf, people = v.view[0].len / 16 / k;
    double *low = v.view[2].buf, *high = v.view[3].buf;
    int wrong = 0;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n && !(wrong = outside(rows[i], people)); i++) {
        const double *p = xy + rows[i] * k * 2;
        double x0 = p[0], y0 = p[1], x1 = p[0], y1 = p[1], odd_x = p[0] - p[0], odd_y = p[1] - p[1];
        for (Py_ssize_t j = 1; j < k; j++) {
            double x = p[2 * j], y = p[2 * j + 1];
            x0 = x < x0 ? x : x0, x1 = x > x1 ? x : x1;
            y0 = y < y0 ? y : y0, y1 = y > y1 ? y : y1;
            odd_x += x - x, odd_y += y - y; /* NaN for NaN, and for infinity, which the next lines look at again */
        }
        if (odd_x != 0 || odd_y != 0) {
            for (Py_ssize_t j = 0; j < k; j++) {
                if (p[2 * j] != p[2 * j]) x0 = x1 = p[2 * j];
                if (p[2 * j + 1] != p[2 * j + 1]) y0 = y1 = p[2 * j + 1];
            }
        }
        low[2 * i] = x0, low[2 * i + 1] = y0, high[2 * i] = x1, high[2 * i + 1] = y1;
    }
    Py_END_ALLOW_THREADS
    return wrong ? unfit(&v, "extents") : give_back(&v, Py_NewRef(Py_None));
}

/* near(first, counts, dt_box, gt_box, d, g) -> how many pairs of detection i with ground truth first[i] … have boxes
   that are not apart; NaN is apart from nothing. */
static PyObject *near(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    if (!take(&v, args, "yyyyww")) return give_back(&v, NULL);
    Py_ssize_t n = v.view[0].len / 8, room = v.view[4].len / 8, found = 0;
    if (v.view[1].len != n * 8 || v.view[2].len != n * 32 || v.view[5].len != room * 8) return unfit(&v, "near");
    const int64_t *first = v.view[0].buf, *counts = v.view[1].buf;
    const double *dt = v.view[2].buf, *gt = v.view[3].buf;
    const int64_t people = v.view[3].len / 32;
    int64_t *d = v.view[4].buf, *g = v.view[5].buf;
    int wrong = 0;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *a = dt + 4 * i;
        if ((wrong = first[i] < 0 || counts[i] < 0 || counts[i] > people - first[i])) break;
        for (int64_t j = first[i]; j < first[i] + counts[i]; j++) {
            const double *b = gt + 4 * j;
            if (a[0] > b[2] || a[1] > b[3] || a[2] < b[0] || a[3] < b[1] || found == room) continue;
            d[found] = i, g[found++] = j;
        }
    }
    Py_END_ALLOW_THREADS
    return wrong ? unfit(&v, "near") : give_back(&v, PyLong_FromSsize_t(found));
}

/* terms(keypoints, rows, people, g, joints, variances, areas, out, k, n): -e of the first n labelled keypoints of each
   pair, e = squared pixels / variance / area / 2. */
static PyObject *terms(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    if (!take(&v, args, "yyyyyyyw")) return give_back(&v, NULL);
    Py_ssize_t pairs = v.view[1].len / 8, k = PyLong_AsSsize_t(PyTuple_GetItem(args, 8));
    Py_ssize_t n = PyLong_AsSsize_t(PyTuple_GetItem(args, 9));
    int64_t persons = v.view[6].len / 8, detections = k < 1 ? 0 : v.view[0].len / 16 / k;
    if (n < 1 || n > k || v.view[3].len != pairs * 8 || v.view[5].len != k * 8 || v.view[7].len != pairs * n * 8 ||
        v.view[2].len != persons * k * 16 || v.view[4].len != persons * k * 8)
        return unfit(&v, "terms");
    const double *found = v.view[0].buf, *people = v.view[2].buf, *variances = v.view[5].buf, *areas = v.view[6].buf;
    const int64_t *rows = v.view[1].buf, *g = v.view[3].buf, *joints = v.view[4].buf;
    double *out = v.view[7].buf;
    int wrong = 0;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < pairs && !wrong; i++) {
        if ((wrong = outside(rows[i], detections) || outside(g[i], persons))) break;
        const double *theirs = found + rows[i] * k * 2, *own = people + g[i] * k * 2;
        const int64_t *which = joints + g[i] * k;
        double area = areas[g[i]];
        for (Py_ssize_t j = 0; j < n && !(wrong = outside(which[j], k)); j++) {
            double dx = theirs[2 * which[j]] - own[2 * j], dy = theirs[2 * which[j] + 1] - own[2 * j + 1];
            *out++ = -((dx * dx + dy * dy) / variances[which[j]] / area / 2);
        }
    }
    Py_END_ALLOW_THREADS
    return wrong ? unfit(&v, "terms") : give_back(&v, Py_NewRef(Py_None));
}

static double above_zero(double x) { return x > 0 || x != x ? x : 0; }

/* box_terms(keypoints, rows, boxes, g, variances, areas, out, k): as terms for people without labelled keypoints, by the
   distance of all keypoints of a detection to the person's enlarged box x0, y0, x1, y1. */
static PyObject *box_terms(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    if (!take(&v, args, "yyyyyyw")) return give_back(&v, NULL);
    Py_ssize_t pairs = v.view[1].len / 8, k = PyLong_AsSsize_t(PyTuple_GetItem(args, 7));
    int64_t persons = v.view[5].len / 8, detections = k < 1 ? 0 : v.view[0].len / 16 / k;
    if (k < 1 || v.view[3].len != pairs * 8 || v.view[4].len != k * 8 || v.view[6].len != pairs * k * 8 ||
        v.view[2].len != persons * 32)
        return unfit(&v, "box_terms");
    const double *found = v.view[0].buf, *boxes = v.view[2].buf, *variances = v.view[4].buf, *areas = v.view[5].buf;
    const int64_t *rows = v.view[1].buf, *g = v.view[3].buf;
    double *out = v.view[6].buf;
    int wrong = 0;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < pairs && !(wrong = outside(rows[i], detections) || outside(g[i], persons)); i++) {
        const double *xy = found + rows[i] * k * 2, *box = boxes + 4 * g[i];
        double area = areas[g[i]];
        for (Py_ssize_t j = 0; j < k; j++, xy += 2) {
            double dx = above_zero(box[0] - xy[0]) + above_zero(xy[0] - box[2]);
            double dy = above_zero(box[1] - xy[1]) + above_zero(xy[1] - box[3]);
            *out++ = -((dx * dx + dy * dy) / variances[j] / area / 2);
        }
    }
    Py_END_ALLOW_THREADS
    return wrong ? unfit(&v, "box_terms") : give_back(&v, Py_NewRef(Py_None));
}

/* One choice of cocoeval.py:283–299 among pairs `from` … `to` - 1; -1 where nobody is free and near enough. */
static int64_t choose(const double *oks, const int64_t *g, int64_t from, int64_t to, const char *ignored, const char *crowd,
                      const char *taken, double limit) {
    int64_t best = -1;
    for (int pass = 0; pass < 2 && best < 0; pass++) { /* those that count, then the ignored */
        for (int64_t p = from; p < to; p++) {
            if ((ignored[g[p]] != 0) != pass || (taken[g[p]] && !crowd[g[p]]) || oks[p] < limit) continue;
            limit = oks[p];
            best = p;
        }
    }
    return best;
}

/* greedy(dt, gt, oks, ignored (A, G), crowd (G), limits (T), matched (A, T, D), taken (G)): who is matched with whom;
   pairs by detection (whose order is that of their turns), then ground truth. */
static PyObject *greedy(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    if (!take(&v, args, "yyyyyyww")) return give_back(&v, NULL);
    int64_t pairs = v.view[0].len / 8, people = v.view[4].len, limits = v.view[5].len / 8;
    int64_t ranges = people ? v.view[3].len / people : 0, cells = ranges * limits;
    int64_t results = cells ? v.view[6].len / 4 / cells : 0;
    if (v.view[1].len != pairs * 8 || v.view[2].len != pairs * 8 || v.view[7].len != people || pairs > INT32_MAX)
        return unfit(&v, "greedy");
    const int64_t *d = v.view[0].buf, *g = v.view[1].buf;
    const double *oks = v.view[2].buf, *limit = v.view[5].buf;
    const char *ignored = v.view[3].buf, *crowd = v.view[4].buf;
    char *taken = v.view[7].buf;
    int wrong = 0;
    Py_BEGIN_ALLOW_THREADS
    for (int64_t p = 0; p < pairs && cells; p++) wrong |= outside(d[p], results) || outside(g[p], people);
    if (wrong) cells = 0;
    for (int64_t cell = 0; cell < cells; cell++) {
        const char *out_of_range = ignored + cell / limits * people;
        int32_t *matched = (int32_t *)v.view[6].buf + cell * results;
        memset(taken, 0, (size_t)people);
        for (int64_t from = 0, to; from < pairs; from = to) {
            for (to = from + 1; to < pairs && d[to] == d[from]; to++) {}
            int64_t p = choose(oks, g, from, to, out_of_range, crowd, taken, limit[cell % limits]);
            if (p < 0) continue;
            matched[d[p]] = (int32_t)p;
            taken[g[p]] = 1;
        }
    }
    Py_END_ALLOW_THREADS
    return wrong ? unfit(&v, "greedy") : give_back(&v, Py_NewRef(Py_None));
}

static PyMethodDef methods[] = {
    {"extents", extents, METH_VARARGS, "extents(keypoints, rows, low, high, k)"},
    {"near", near, METH_VARARGS, "near(first, counts, dt_box, gt_box, d, g) -> how many"},
    {"terms", terms, METH_VARARGS, "terms(keypoints, rows, people, g, joints, variances, areas, out, k, n)"},
    {"box_terms", box_terms, METH_VARARGS, "box_terms(keypoints, rows, boxes, g, variances, areas, out, k)"},
    {"greedy", greedy, METH_VARARGS, "greedy(dt, gt, oks, ignored, crowd, limits, matched, taken)"},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
