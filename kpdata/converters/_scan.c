/* The rows of a JSON array as columns, and back: the compiled half of `_scanning.py` and `_columns.py`, which say what it
   is for.

   scan(data, start, stop, keys, kinds, powers) reads the objects between two positions of `data` and returns a list of
   columns and the extras, or None as soon as it meets anything that it does not take: malformed JSON, a key that stands
   twice in an object, an escaped key, integers of more than 18 digits, a list where a number is due. The caller then
   takes the way without this module, which also words the error. No Python object is touched while it reads, so that
   two halves of a file are read at the same time.

   Numbers are exact: up to 19 digits by the method of D. Lemire, "Number parsing at a gigabyte per second" (Software:
   Practice and Experience 51, 2021), with the 128-bit powers of five in `powers`; whatever that does not cover is put
   on a list for Python's own float(). */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#if !defined(__SIZEOF_INT128__) || !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "needs 128-bit integers and a little-endian machine; kpdata works without this module"
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline)) /* of compilers that have 128-bit integers */
#define POWER_MIN (-64)
#define POWER_MAX 64
#define MAX_UNKNOWN 64 /* keys of one object that are no column: more are left to the other way */
#define MAX_DEPTH 64
#define TASTE 32 /* rows after which memory is taken for all: what a buffer outgrows is copied, into memory not yet used */
enum { SCALAR, NUMBERS, POLYGONS };                       /* what a column holds */
enum { NONE, INTEGER, REAL, FALSE_, TRUE_, TEXT, ESCAPED, OBJECT }; /* what one value is */

/* ------------------------------------------------------------------------------------- memory that Python can view */

typedef struct {
    char *data;
    size_t used, size;
} Buffer;

static int grow(Buffer *b, size_t more) {
    if (b->used + more <= b->size) return 1;
    size_t size = b->size / 2 + b->used + more + 4096;
    char *data = realloc(b->data, size);
    if (!data) return 0;
    b->data = data;
    b->size = size;
    return 1;
}

static int put(Buffer *b, const void *value, size_t length) {
    if (!grow(b, length)) return 0;
    memcpy(b->data + b->used, value, length);
    b->used += length;
    return 1;
}

typedef struct {
    PyObject_HEAD
    char *data;
    Py_ssize_t size;
} Block;

static PyObject *block_type;

static int block_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    Block *block = (Block *)self;
    return PyBuffer_FillInfo(view, self, block->data, block->size, 0, flags);
}

static void block_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    free(((Block *)self)->data);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyType_Slot block_slots[] = {
    {Py_tp_dealloc, block_dealloc}, {Py_bf_getbuffer, block_getbuffer}, {0, NULL}};
static PyType_Spec block_spec = {"kpdata.converters._scan.Block", sizeof(Block), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, block_slots};

/* Hands the memory over: afterwards the buffer is empty. */
static PyObject *block(Buffer *b) {
    allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)block_type, Py_tp_alloc);
    Block *made = (Block *)allocate((PyTypeObject *)block_type, 0);
    if (!made) return NULL;
    char *tight = b->used ? realloc(b->data, b->used) : NULL;
    if (!b->used) free(b->data);
    made->data = tight ? tight : (b->used ? b->data : NULL);
    made->size = (Py_ssize_t)b->used;
    memset(b, 0, sizeof *b);
    return (PyObject *)made;
}

/* ------------------------------------------------------------------------------------------------- what is collected */

typedef struct {
    const char *key;
    size_t length;
    int kind;
    int32_t last;        /* the row that gave the last value: the same again is a repeated key */
    Buffer row;          /* int32 of each value */
    Buffer type;         /* uint8, what the value is */
    Buffer first, second; /* 8 bytes: an integer or a real; a text's or an object's first and last position */
    Buffer numbers;      /* float64 of number lists */
    Buffer lengths;      /* int32 of each flat list */
    Buffer slow;         /* int64 triples: index in `numbers` (-1 - index in `first`), positions of a number's text */
    int saw_integer;
} Column;

typedef struct {
    const char *p, *end, *base;
    const uint64_t *powers;
    Column *columns;
    int count;
    int order[MAX_UNKNOWN]; /* the column of the n-th key of the last object: usually of this one too */
    int32_t rows;
    Buffer extra_row, extra_end, extra_raw, extra_text;
    int wide; /* a byte above 127 was seen */
} Scan;

static inline const char *behind_blanks(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    return p;
}

static inline void blanks(Scan *s) {
    s->p = behind_blanks(s->p, s->end);
}

static inline int take(Scan *s, char wanted) {
    blanks(s);
    if (s->p >= s->end || *s->p != wanted) return 0;
    s->p++;
    return 1;
}

static inline char peek(Scan *s) {
    blanks(s);
    return s->p < s->end ? *s->p : 0;
}

/* ----------------------------------------------------------------------------------------------------------- numbers */

typedef struct {
    int integer, slow;
    int64_t whole;
    double real;
} Number;

/* 0 where all eight bytes are digits; else its lowest bit that is set lies in the first byte that is none. (What a sum
   carries over reaches later bytes only.) */
static inline uint64_t not_digits(uint64_t v) {
    const uint64_t high = 0xF0F0F0F0F0F0F0F0ULL, zeros = 0x3030303030303030ULL;
    return ((v & high) ^ zeros) | (((v + 0x0606060606060606ULL) & high) ^ zeros);
}

static inline uint64_t value_of_eight(uint64_t v) {
    v = (v & 0x0F0F0F0F0F0F0F0FULL) * 2561 >> 8;
    v = (v & 0x00FF00FF00FF00FFULL) * 6553601 >> 16;
    return (v & 0x0000FFFF0000FFFFULL) * 42949672960001ULL >> 32;
}

static inline const char *digits(const char *p, const char *end, uint64_t *value) {
    static const uint64_t tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    uint64_t v = *value, eight, other;
    while (end - p >= 8) {
        memcpy(&eight, p, 8);
        if ((other = not_digits(eight)) != 0) {
            /* 0 to 7 digits, without a branch: moved to the end of the eight, behind zeros. */
            int n = __builtin_ctzll(other) >> 3;
            *value = v * tens[n] + value_of_eight(eight << (56 - 8 * n) << 8);
            return p + n;
        }
        v = v * 100000000 + value_of_eight(eight);
        p += 8;
    }
    while (p < end && (unsigned char)(*p - '0') < 10) v = v * 10 + (uint64_t)(*p++ - '0');
    *value = v;
    return p;
}

/* w * 10^q as a double; 0 where this method does not decide it. */
static inline int decimal(uint64_t w, int64_t q, const uint64_t *powers, double *out) {
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (w < (1ULL << 53) && q >= -22 && q <= 22) {
        *out = q < 0 ? (double)w / exact[-q] : (double)w * exact[q];
        return 1;
    }
    if (!w) return *out = 0.0, 1;
    if (q < POWER_MIN || q > POWER_MAX) return 0;
    const uint64_t *power = powers + 2 * (q - POWER_MIN);
    int zeros = __builtin_clzll(w);
    w <<= zeros;
    unsigned __int128 product = (unsigned __int128)w * power[0];
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    if ((high & 0x1FF) == 0x1FF) {
        uint64_t more = (uint64_t)((unsigned __int128)w * power[1] >> 64);
        low += more;
        if (more > low) high++;
    }
    if (low == UINT64_MAX && (q < -27 || q > 55)) return 0;
    int upper = (int)(high >> 63), shift = upper + 64 - 52 - 3;
    uint64_t mantissa = high >> shift;
    int64_t exponent = ((217706 * q) >> 16) + 63 + upper - zeros + 1023;
    if (exponent <= 0 || exponent >= 2046) return 0;
    if (low <= 1 && q >= -4 && q <= 23 && (mantissa & 3) == 1 && mantissa << shift == high) mantissa &= ~1ULL;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if (mantissa >= 1ULL << 53) {
        mantissa = 1ULL << 52;
        exponent++;
    }
    uint64_t bits = (mantissa & ~(1ULL << 52)) | (uint64_t)exponent << 52;
    memcpy(out, &bits, 8);
    return 1;
}

/* The number that starts at p; the position behind it, NULL where there is none. */
static ALWAYS_INLINE const char *number_at(const char *p, const char *end, const uint64_t *powers, Number *n) {
    int negative = p < end && *p == '-';
    uint64_t w = 0;
    int64_t q = 0;
    const char *first = p += negative;
    n->slow = 0;
    p = digits(p, end, &w);
    size_t count = (size_t)(p - first);
    if (!count || (*first == '0' && count > 1)) return NULL;
    n->integer = p >= end || (*p != '.' && *p != 'e' && *p != 'E');
    if (n->integer) {
        if (count > 18) return NULL;
        n->whole = negative ? -(int64_t)w : (int64_t)w;
        n->real = (double)n->whole; /* so that -0 is 0, as for every reader of integers */
        return p;
    }
    if (*p == '.') {
        const char *fraction = ++p;
        p = digits(p, end, &w);
        if (p == fraction) return NULL;
        q = fraction - p;
        count += (size_t)(p - fraction);
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        uint64_t e = 0;
        int below = 0;
        p++;
        if (p < end && (*p == '+' || *p == '-')) below = *p++ == '-';
        const char *power = p;
        p = digits(p, end, &e);
        if (p == power) return NULL;
        if (p - power > 6) n->slow = 1; /* 1e1000000: float() says what it is */
        else q += below ? -(int64_t)e : (int64_t)e;
    }
    if (count > 19 && *first == '0') /* 0.000123: the zeros are no digits that count */
        for (const char *z = first; count > 19 && z < p && (*z == '0' || *z == '.'); z++) count -= *z == '0';
    if (n->slow || count > 19 || !decimal(w, q, powers, &n->real)) {
        n->slow = 1;
        n->real = 0;
    }
    if (negative) n->real = -n->real;
    return p;
}

static int number(Scan *s, Number *n) {
    const char *p = number_at(s->p, s->end, s->powers, n);
    if (p) s->p = p;
    return p != NULL;
}

/* ------------------------------------------------------------------------------------------------- texts, whatever */

/* Leaves the positions between the quotes. */
static inline int string(Scan *s, const char **from, const char **to, int *escaped) {
    const char *p = s->p, *end = s->end;
    if (p >= end || *p != '"') return 0;
    *from = ++p;
    *escaped = 0;
    for (; p < end && *p != '"'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20) return 0;
        if (c == '\\') {
            *escaped = 1;
            if (++p >= end || !*p || !strchr("\"\\/bfnrtu", *p)) return 0;
            if (*p == 'u') {
                for (int i = 0; i < 4; i++) {
                    if (++p >= end || !strchr("0123456789abcdefABCDEF", *p) || !*p) return 0;
                }
            }
        }
        s->wide |= c > 127;
    }
    if (p >= end) return 0;
    *to = p;
    s->p = p + 1;
    return 1;
}

static inline int word(Scan *s, const char *text, size_t length) {
    if ((size_t)(s->end - s->p) < length || memcmp(s->p, text, length)) return 0;
    s->p += length;
    return 1;
}

/* Any value. `canonical`: its text is what a JSON writer without blanks would write. */
static int skip(Scan *s, int *canonical, int depth) {
    const char *from, *to;
    int escaped;
    Number n;
    char c = peek(s);
    if (depth > MAX_DEPTH) return 0;
    if (c == '"') {
        if (!string(s, &from, &to, &escaped)) return 0;
        *canonical &= !escaped;
        return 1;
    }
    if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';
        *canonical = 0;
        s->p++;
        if (take(s, close)) return 1;
        do {
            /* Inside an object nobody looks for keys that stand twice: Python's reader does, in the text. */
            if (c == '{' && (peek(s) != '"' || !string(s, &from, &to, &escaped) || !take(s, ':'))) return 0;
            if (!skip(s, canonical, depth + 1)) return 0;
        } while (take(s, ','));
        return take(s, close);
    }
    if (c == 't') return word(s, "true", 4);
    if (c == 'f') return word(s, "false", 5);
    if (c == 'n') return word(s, "null", 4);
    const char *start = s->p;
    if (!number(s, &n)) return 0;
    *canonical &= n.integer && *start != '-';
    return 1;
}

/* ----------------------------------------------------------------------------------------------------------- columns */

static int slow(Column *c, int64_t index, const char *start, const char *stop, const Scan *s) {
    int64_t triple[3] = {index, start - s->base, stop - s->base};
    return put(&c->slow, triple, sizeof triple);
}

/* Nearly all of a file is read here: what changes with each number stays in registers. */
static int numbers(Scan *s, Column *c) {
    Number n;
    Buffer *out = &c->numbers;
    const char *end = s->end;
    size_t before = out->used;
    int integer = 0;
    if (!take(s, '[')) return 0;
    const char *p = behind_blanks(s->p, end), *start;
    if (p < end && *p != ']') {
        for (;; p++) {
            start = p = behind_blanks(p, end);
            p = number_at(p, end, s->powers, &n);
            if (!p || (n.slow && !slow(c, (int64_t)(out->used / 8), start, p, s))) return 0;
            integer |= n.integer;
            if (!grow(out, 8)) return 0;
            *(double *)(out->data + out->used) = n.real;
            out->used += 8;
            p = behind_blanks(p, end);
            if (p >= end || *p != ',') break;
        }
    }
    int32_t length = (int32_t)((out->used - before) / 8);
    c->saw_integer |= integer;
    s->p = p;
    return take(s, ']') && put(&c->lengths, &length, 4);
}

/* Polygons, or an object: a mask. first: how many polygons; of a mask its position. */
static int polygons(Scan *s, Column *c) {
    int64_t pair[2] = {0, 0};
    unsigned char type = NONE;
    int canonical = 1;
    if (peek(s) == '{') {
        type = OBJECT;
        pair[0] = s->p - s->base;
        if (!skip(s, &canonical, 0)) return 0;
        pair[1] = s->p - s->base;
    } else {
        if (!take(s, '[')) return 0;
        if (peek(s) == ']') {
            s->p++;
        } else {
            do {
                if (!numbers(s, c)) return 0;
                pair[0]++;
            } while (take(s, ','));
            if (!take(s, ']')) return 0;
        }
    }
    return put(&c->type, &type, 1) && put(&c->first, pair, 8) && put(&c->second, pair + 1, 8);
}

static int scalar(Scan *s, Column *c) {
    int64_t pair[2] = {0, 0};
    unsigned char type = NONE;
    const char *from, *to;
    int escaped;
    Number n;
    char first = peek(s);
    const char *start = s->p;
    if (first == '"') {
        if (!string(s, &from, &to, &escaped)) return 0;
        type = escaped ? ESCAPED : TEXT;
        pair[0] = from - s->base;
        pair[1] = to - s->base;
    } else if (first == 't' || first == 'f') {
        type = first == 't' ? TRUE_ : FALSE_;
        if (!(first == 't' ? word(s, "true", 4) : word(s, "false", 5))) return 0;
    } else if (first == 'n') {
        if (!word(s, "null", 4)) return 0;
    } else {
        if (!number(s, &n)) return 0;
        type = n.integer ? INTEGER : REAL;
        if (n.slow && !slow(c, -1 - (int64_t)(c->first.used / 8), start, s->p, s)) return 0;
        if (n.integer) {
            pair[0] = n.whole;
        } else {
            memcpy(pair, &n.real, 8);
        }
    }
    return put(&c->type, &type, 1) && put(&c->first, pair, 8) && put(&c->second, pair + 1, 8);
}

static int find(Scan *s, int place, const char *key, size_t length) {
    int guess = place < MAX_UNKNOWN ? s->order[place] : -1;
    if (guess >= 0 && s->columns[guess].length == length && !memcmp(s->columns[guess].key, key, length)) return guess;
    for (int i = 0; i < s->count; i++) {
        if (s->columns[i].length == length && !memcmp(s->columns[i].key, key, length)) {
            if (place < MAX_UNKNOWN) s->order[place] = i;
            return i;
        }
    }
    return -1;
}

/* A key that is no column: its text without blanks, as it stands there. */
static int extra(Scan *s, const char *key, size_t length, int first, int *raw) {
    int canonical = 1;
    peek(s);
    const char *from = s->p;
    if (!skip(s, &canonical, 0)) return 0;
    *raw |= !canonical;
    Buffer *text = &s->extra_text;
    return (first || put(text, ",", 1)) && put(text, "\"", 1) && put(text, key, length) && put(text, "\":", 2) &&
           put(text, from, (size_t)(s->p - from));
}

static int object(Scan *s) {
    const char *unknown[MAX_UNKNOWN][2];
    int place = 0, others = 0, raw = 0;
    if (!take(s, '{')) return 0;
    if (peek(s) == '}') {
        s->p++;
    } else {
        do {
            const char *key, *stop;
            int escaped;
            if (peek(s) != '"' || !string(s, &key, &stop, &escaped) || escaped || !take(s, ':')) return 0;
            size_t length = (size_t)(stop - key);
            int i = find(s, place++, key, length);
            if (i < 0) {
                for (int k = 0; k < others; k++)
                    if ((size_t)(unknown[k][1] - unknown[k][0]) == length && !memcmp(unknown[k][0], key, length)) return 0;
                if (others == MAX_UNKNOWN || !extra(s, key, length, !others, &raw)) return 0;
                unknown[others][0] = key;
                unknown[others++][1] = stop;
                continue;
            }
            Column *c = s->columns + i;
            if (c->last == s->rows || !put(&c->row, &s->rows, 4)) return 0;
            c->last = s->rows;
            if (!(c->kind == SCALAR ? scalar(s, c) : c->kind == NUMBERS ? numbers(s, c) : polygons(s, c))) return 0;
        } while (take(s, ','));
        if (!take(s, '}')) return 0;
    }
    if (others) {
        int64_t used = (int64_t)s->extra_text.used;
        unsigned char flag = (unsigned char)raw;
        if (!put(&s->extra_row, &s->rows, 4) || !put(&s->extra_end, &used, 8) || !put(&s->extra_raw, &flag, 1)) return 0;
    }
    s->rows++;
    return s->rows < INT32_MAX;
}

/* Room for as much as is to come, if all rows are like those so far. Where there is none, buffers grow as they do. */
static void reserve(Scan *s, const char *start) {
    double more = 1.05 * (double)(s->end - s->p) / (double)(s->p - start);
    for (int i = 0; i < s->count; i++) {
        Column *c = s->columns + i;
        Buffer *all[] = {&c->row, &c->type, &c->first, &c->second, &c->numbers, &c->lengths};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            if (all[k]->used) grow(all[k], (size_t)((double)all[k]->used * more));
    }
}

static int objects(Scan *s) {
    const char *start = s->p;
    do {
        if (!object(s)) return 0;
        if (s->rows == TASTE) reserve(s, start);
    } while (take(s, ','));
    blanks(s);
    return s->p == s->end;
}

/* -------------------------------------------------------------------------------------------------------- for Python */

static PyObject *column_tuple(Column *c) {
    return Py_BuildValue("(NNNNNNNi)", block(&c->row), block(&c->type), block(&c->first), block(&c->second),
                         block(&c->numbers), block(&c->lengths), block(&c->slow), c->saw_integer);
}

static void release(Scan *s) {
    for (int i = 0; i < s->count; i++) {
        Column *c = s->columns + i;
        free(c->row.data), free(c->type.data), free(c->first.data), free(c->second.data);
        free(c->numbers.data), free(c->lengths.data), free(c->slow.data);
    }
    free(s->extra_row.data), free(s->extra_end.data), free(s->extra_raw.data), free(s->extra_text.data);
    free(s->columns);
}

static PyObject *result(Scan *s) {
    PyObject *list = PyList_New(s->count);
    for (int i = 0; list && i < s->count; i++) {
        PyObject *made = column_tuple(s->columns + i);
        if (!made || PyList_SetItem(list, i, made) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list ? Py_BuildValue("(iNNNNNi)", (int)s->rows, list, block(&s->extra_row), block(&s->extra_end),
                                block(&s->extra_raw), block(&s->extra_text), s->wide)
                : NULL;
}

static PyObject *scan(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, powers;
    Py_ssize_t start, stop;
    PyObject *keys, *kinds, *out = NULL;
    if (!PyArg_ParseTuple(args, "y*nnO!O!y*", &data, &start, &stop, &PyTuple_Type, &keys, &PyTuple_Type, &kinds, &powers))
        return NULL;
    Scan s;
    memset(&s, 0, sizeof s);
    s.base = data.buf;
    s.powers = powers.buf;
    Py_ssize_t count = PyTuple_Size(keys);
    int sound = start >= 0 && start <= stop && stop <= data.len && PyTuple_Size(kinds) == count &&
                powers.len == 16 * (POWER_MAX - POWER_MIN + 1);
    if (!sound) PyErr_SetString(PyExc_ValueError, "scan: positions, keys, kinds or powers do not fit");
    if (sound) s.columns = calloc((size_t)count + 1, sizeof(Column));
    if (sound && !s.columns) PyErr_NoMemory();
    for (Py_ssize_t i = 0; s.columns && i < count; i++) {
        Py_ssize_t length;
        char *key;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(keys, i), &key, &length) < 0) break;
        s.columns[i].key = key;
        s.columns[i].length = (size_t)length;
        s.columns[i].kind = (int)PyLong_AsLong(PyTuple_GetItem(kinds, i));
        s.columns[i].last = -1;
        s.count++;
    }
    if (!PyErr_Occurred()) {
        int whole;
        memset(s.order, -1, sizeof s.order);
        s.p = s.base + start;
        s.end = s.base + stop;
        Py_BEGIN_ALLOW_THREADS
        whole = objects(&s);
        Py_END_ALLOW_THREADS
        out = whole ? result(&s) : Py_NewRef(Py_None);
    }
    release(&s);
    PyBuffer_Release(&data);
    PyBuffer_Release(&powers);
    return out;
}

/* ------------------------------------------------------------------------------------------------------ the way back */

enum { ONE, LIST, LISTS, RAW, MEMBERS }; /* what a row has of a column's text: a number, a list, …, any text */

typedef struct {
    Py_buffer name, body, inner, outer, present;
    int kind;
    const char *p, *end;
    Py_ssize_t at; /* the next list of `inner` */
} Strand;

/* `count` numbers with the commas between them; leaves the position behind the comma after. NULL: there are fewer. */
static const char *numbers_end(Strand *t, int64_t count) {
    const char *p = t->p;
    if (!count) return p;
    while (t->end - p >= 8 && count > 1) { /* eight bytes at a time, as long as the last comma is further on */
        uint64_t eight;
        memcpy(&eight, p, 8);
        eight ^= 0x2C2C2C2C2C2C2C2CULL;
        uint64_t others = ((eight & 0x7F7F7F7F7F7F7F7FULL) + 0x7F7F7F7F7F7F7F7FULL) | eight | 0x7F7F7F7F7F7F7F7FULL;
        int commas = __builtin_popcountll(~others);
        if (commas >= count) break;
        count -= commas;
        p += 8;
    }
    for (;;) {
        const char *comma = memchr(p, ',', (size_t)(t->end - p));
        if (!--count) return comma ? comma : (t->p < t->end ? t->end : NULL);
        if (!comma) return NULL;
        p = comma + 1;
    }
}

static int copy_numbers(Strand *t, int64_t count, int list, int write, Buffer *out) {
    const char *stop = numbers_end(t, count);
    if (!stop) return 0;
    int done = !write || ((!list || put(out, "[", 1)) && put(out, t->p, (size_t)(stop - t->p)) && (!list || put(out, "]", 1)));
    t->p = count && stop < t->end ? stop + 1 : stop;
    return done;
}

static int strand(Strand *t, Py_ssize_t row, int write, Buffer *out) {
    const int64_t *inner = t->inner.buf, *outer = t->outer.buf;
    if (t->kind == ONE) return copy_numbers(t, 1, 0, write, out);
    if (t->kind == LIST) return copy_numbers(t, inner[row], 1, write, out);
    if (t->kind == LISTS) {
        if (write && !put(out, "[", 1)) return 0;
        for (int64_t i = 0; i < outer[row]; i++) {
            if ((t->at + 1) * 8 > t->inner.len || (write && i && !put(out, ",", 1))) return 0;
            if (!copy_numbers(t, inner[t->at++], 1, write, out)) return 0;
        }
        return !write || put(out, "]", 1);
    }
    int64_t start = row ? inner[row - 1] : 0, stop = inner[row]; /* where the text of each row ends */
    if (start < 0 || stop < start || stop > t->body.len) return 0;
    return !write || put(out, (const char *)t->body.buf + start, (size_t)(stop - start));
}

static int object_of(Strand *strands, Py_ssize_t count, Py_ssize_t row, Buffer *out) {
    int first = 1;
    if (!put(out, row ? ",{" : "{", row ? 2 : 1)) return 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Strand *t = strands + i;
        int write = !t->present.len || ((const char *)t->present.buf)[row];
        if (write && !first && !put(out, ",", 1)) return 0;
        if (write && t->name.len && !put(out, t->name.buf, (size_t)t->name.len)) return 0;
        if (!strand(t, row, write, out)) return 0;
        first &= !write;
    }
    return put(out, "}", 1);
}

static int strand_of(PyObject *tuple, Strand *t, Py_ssize_t rows) {
    if (!PyArg_ParseTuple(tuple, "y*iy*y*y*y*", &t->name, &t->kind, &t->body, &t->inner, &t->outer, &t->present)) return 0;
    t->p = t->body.buf;
    t->end = t->p + t->body.len;
    int per_row = t->kind == LIST || t->kind == RAW || t->kind == MEMBERS;
    if ((!per_row || t->inner.len >= rows * 8) && (t->kind != LISTS || t->outer.len >= rows * 8) &&
        (!t->present.len || t->present.len >= rows))
        return 1;
    PyErr_SetString(PyExc_ValueError, "weave: a column is shorter than the rows");
    return 0;
}

static PyObject *weave(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t rows;
    PyObject *list, *made = NULL;
    Buffer out = {0}, ends = {0};
    if (!PyArg_ParseTuple(args, "nO!", &rows, &PyList_Type, &list)) return NULL;
    Py_ssize_t count = PyList_Size(list), ready = 0;
    Strand *strands = calloc((size_t)count + 1, sizeof(Strand));
    if (!strands) return PyErr_NoMemory();
    while (ready < count && strand_of(PyList_GetItem(list, ready), strands + ready, rows)) ready++;
    int whole = ready == count;
    for (Py_ssize_t row = 0; whole && row < rows; row++) {
        whole = object_of(strands, count, row, &out);
        int64_t end = (int64_t)out.used;
        whole = whole && put(&ends, &end, 8);
    }
    if (whole) made = Py_BuildValue("(NN)", block(&out), block(&ends));
    if (!whole && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "weave: a column's text is shorter than its rows");
    for (Py_ssize_t i = 0; i < count; i++) { /* buffers that were never taken are empty: releasing those does nothing */
        PyBuffer_Release(&strands[i].name), PyBuffer_Release(&strands[i].body), PyBuffer_Release(&strands[i].inner);
        PyBuffer_Release(&strands[i].outer), PyBuffer_Release(&strands[i].present);
    }
    free(strands), free(out.data), free(ends.data);
    return made;
}

/* For a process that is soon done: what is freed is kept for what is needed next, by whichever thread, instead of being
   given back to the system, which takes longer to give it out again than all that is done with it. */
static PyObject *keep_memory(PyObject *module, PyObject *args) {
    (void)module, (void)args;
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
    if (!mallopt(M_MMAP_THRESHOLD, 1 << 30)) mallopt(M_MMAP_THRESHOLD, 1 << 25); /* the most that older glibc takes */
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
#endif
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"keep_memory", keep_memory, METH_NOARGS, "keep_memory(): memory that is freed stays with the process"},
    {"weave", weave, METH_VARARGS, "weave(rows, columns) -> JSON objects with commas between, and where each ends"},
    {"scan", scan, METH_VARARGS, "scan(data, start, stop, keys, kinds, powers) -> columns and extras, or None"},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_scan", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scan(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && !(block_type = PyType_FromSpec(&block_spec))) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
