// Linear classifiers over bags of hashed words, word n-grams and character n-grams, as fastText defines the features
// (Joulin et al. 2016, arXiv:1607.01759): features of a text, training by stochastic gradient descent, scores.
// Built with -ffp-contract=off and sums in a fixed order, so that a model is the same on every processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr uint64_t FNV64_START = 14695981039346656037ull, FNV64_PRIME = 1099511628211ull;
constexpr uint32_t FNV32_START = 2166136261u, FNV32_PRIME = 16777619u;
constexpr uint64_t NGRAM_FACTOR = 116049371ull;
const uint8_t END[] = {'<', '/', 's', '>'};  // fastText reads one such word at the end of a line

inline bool separates(uint8_t c) { return c == ' ' || (c >= 9 && c <= 13) || c == 0; }

// fastText hashes signed characters: bytes above 127 come with their upper bits set.
inline uint32_t step32(uint32_t h, uint8_t c) { return (h ^ uint32_t(int32_t(int8_t(c)))) * FNV32_PRIME; }

// A word's key in the vocabulary; never 0, which marks an empty slot.
struct Word { uint64_t key; uint32_t hash; const uint8_t* at; int64_t size; };

inline Word word(const uint8_t* p, const uint8_t* stop) {
    uint64_t key = FNV64_START;
    uint32_t hash = FNV32_START;
    const uint8_t* q = p;
    for (; q < stop; q++) {
        key = (key ^ *q) * FNV64_PRIME;
        hash = step32(hash, *q);
    }
    return {key ? key : 1, hash, p, q - p};
}

template <class F>
inline void each_word(const uint8_t* p, const uint8_t* stop, F f) {
    while (p < stop) {
        if (separates(*p)) { p++; continue; }
        uint64_t key = FNV64_START;
        uint32_t hash = FNV32_START;
        const uint8_t* begin = p;
        do {
            key = (key ^ *p) * FNV64_PRIME;
            hash = step32(hash, *p);
        } while (++p < stop && !separates(*p));
        f(Word{key ? key : 1, hash, begin, p - begin}, false);
    }
    f(word(END, END + 4), true);
}

struct Space {
    const uint64_t* slots;  // word keys, open addressing
    const int32_t* rows;
    uint64_t mask;          // slots - 1
    int64_t words;          // rows of words come first, then those of buckets
    int64_t buckets;
    int32_t word_ngrams, min_chars, max_chars;

    int32_t row(uint64_t key) const {
        for (uint64_t i = (key * 0x9e3779b97f4a7c15ull) >> 20;; i++) {
            const uint64_t found = slots[i & mask];
            if (found == key) return rows[i & mask];
            if (!found) return -1;
        }
    }
};

void char_ngrams(const Space& s, const Word& w, std::vector<uint8_t>& around, std::vector<int32_t>& out) {
    around.resize(w.size + 2);
    around[0] = '<';
    std::memcpy(around.data() + 1, w.at, w.size);
    around[w.size + 1] = '>';
    const int64_t size = around.size();
    for (int64_t i = 0; i < size; i++) {
        if ((around[i] & 0xc0) == 0x80) continue;
        uint32_t h = FNV32_START;
        int64_t j = i;
        for (int n = 1; j < size && n <= s.max_chars; n++) {
            do h = step32(h, around[j++]); while (j < size && (around[j] & 0xc0) == 0x80);
            if (n >= s.min_chars && !(n == 1 && (i == 0 || j == size))) out.push_back(s.words + h % s.buckets);
        }
    }
}

// Rows of one text's features, in fastText's order: words with their character n-grams, then word n-grams.
void features(const Space& s, const uint8_t* p, const uint8_t* stop, std::vector<int32_t>& out,
              std::vector<int32_t>& hashes, std::vector<uint8_t>& around) {
    out.clear();
    hashes.clear();
    each_word(p, stop, [&](const Word& w, bool end) {
        const int32_t row = s.row(w.key);
        if (row >= 0) out.push_back(row);
        if (s.max_chars > 0 && s.buckets && !end) char_ngrams(s, w, around, out);
        hashes.push_back(int32_t(w.hash));
    });
    if (s.word_ngrams < 2 || !s.buckets) return;
    const uint64_t buckets = s.buckets;
    const bool power = !(buckets & (buckets - 1));
    for (size_t i = 0; i < hashes.size(); i++) {
        uint64_t h = uint64_t(int64_t(hashes[i]));
        for (size_t j = i + 1; j < hashes.size() && j < i + s.word_ngrams; j++) {
            h = h * NGRAM_FACTOR + uint64_t(int64_t(hashes[j]));
            out.push_back(s.words + (power ? h & (buckets - 1) : h % buckets));
        }
    }
}

// Eight partial sums: a fixed order that vector units can follow.
inline float dot(const float* a, const float* b, int64_t n) {
    float lane[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) lane[k] += a[i + k] * b[i + k];
    for (int k = 0; i < n; i++, k++) lane[k] += a[i] * b[i];
    float sum = 0;
    for (float x : lane) sum += x;
    return sum;
}

}  // namespace

// Puts n distinct keys into empty (zero) slots; row i belongs to keys[i].
EXPORT void table(const uint64_t* keys, int64_t n, uint64_t* slots, int32_t* rows, uint64_t mask) {
    for (int64_t k = 0; k < n; k++) {
        uint64_t i = (keys[k] * 0x9e3779b97f4a7c15ull) >> 20;
        while (slots[i & mask]) i++;
        slots[i & mask] = keys[k];
        rows[i & mask] = int32_t(k);
    }
}

// Keys of all words of n texts, the end word of each included. `out` holds at least (bytes + 1) / 2 + n. Returns how many.
EXPORT int64_t words(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n, uint64_t* out) {
    int64_t count = 0;
    for (int64_t d = 0; d < n; d++)
        each_word(bytes + starts[d], bytes + stops[d], [&](const Word& w, bool) { out[count++] = w.key; });
    return count;
}

// Rows of the features of n texts, text i in out[places[i] : places[i + 1]]. With out null only counts.
EXPORT void features_of(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n,
                        const uint64_t* slots, const int32_t* rows, uint64_t mask, int64_t words, int64_t buckets,
                        int32_t word_ngrams, int32_t min_chars, int32_t max_chars, int64_t* places, int32_t* out) {
    const Space space{slots, rows, mask, words, buckets, word_ngrams, min_chars, max_chars};
    std::vector<int32_t> found, hashes;
    std::vector<uint8_t> around;
    places[0] = 0;
    for (int64_t d = 0; d < n; d++) {
        features(space, bytes + starts[d], bytes + stops[d], found, hashes, around);
        if (out) std::memcpy(out + places[d], found.data(), 4 * found.size());
        places[d + 1] = places[d] + int64_t(found.size());
    }
}

// sums[i, l] = sum of weights[row, l] over the features of text i, counts[i] = how many features it has.
EXPORT void score(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n,
                  const uint64_t* slots, const int32_t* rows, uint64_t mask, int64_t words, int64_t buckets,
                  int32_t word_ngrams, int32_t min_chars, int32_t max_chars, const float* weights, int64_t labels,
                  double* sums, int64_t* counts) {
    const Space space{slots, rows, mask, words, buckets, word_ngrams, min_chars, max_chars};
    std::vector<int32_t> found, hashes;
    std::vector<uint8_t> around;
    for (int64_t d = 0; d < n; d++) {
        features(space, bytes + starts[d], bytes + stops[d], found, hashes, around);
        double* sum = sums + d * labels;
        counts[d] = int64_t(found.size());
        if (labels == 2) {
            double a = 0, b = 0;
            for (int32_t row : found) { a += weights[2 * int64_t(row)]; b += weights[2 * int64_t(row) + 1]; }
            sum[0] = a, sum[1] = b;
            continue;
        }
        for (int64_t l = 0; l < labels; l++) sum[l] = 0;
        for (int32_t row : found)
            for (int64_t l = 0; l < labels; l++) sum[l] += weights[row * labels + l];
    }
}

// Stochastic gradient descent on weighted cross-entropy, one text at a time, the rate falling linearly to 0 with the
// features seen. input [rows, dim] and output [labels, dim] are changed in place, output only where it is not `fixed`;
// losses[epoch] is the mean loss.
EXPORT void fit(const int32_t* features, const int64_t* places, const int32_t* label, const float* weight,
                const int64_t* order, int64_t n, int64_t epochs, int64_t dim, int64_t labels, int32_t fixed, double rate,
                float* input, float* output, double* losses) {
    std::vector<float> hidden(dim), back(dim);
    std::vector<double> p(labels);
    const double total = double(places[n]) * double(epochs);
    double seen = 0;
    for (int64_t e = 0; e < epochs; e++) {
        double loss = 0, mass = 0;
        for (int64_t k = 0; k < n; k++) {
            const int64_t d = order[e * n + k], count = places[d + 1] - places[d];
            if (!count) continue;
            const int32_t* row = features + places[d];
            const float lr = float(rate * (1.0 - seen / total));
            seen += double(count);
            for (float& h : hidden) h = 0;
            for (int64_t i = 0; i < count; i++) {
                const float* x = input + row[i] * dim;
                for (int64_t c = 0; c < dim; c++) hidden[c] += x[c];
            }
            const float share = 1.0f / float(count);
            for (float& h : hidden) h *= share;
            double top = -1e300, sum = 0;
            for (int64_t l = 0; l < labels; l++) {
                p[l] = dot(hidden.data(), output + l * dim, dim);
                if (p[l] > top) top = p[l];
            }
            for (double& x : p) sum += x = std::exp(x - top);
            const double w = weight[d];
            loss -= w * std::log(p[label[d]] / sum);
            mass += w;
            for (float& b : back) b = 0;
            for (int64_t l = 0; l < labels; l++) {
                const float alpha = float(w * ((l == label[d] ? 1.0 : 0.0) - p[l] / sum)) * lr;
                float* o = output + l * dim;
                for (int64_t c = 0; c < dim; c++) back[c] += alpha * o[c];
                if (!fixed)
                    for (int64_t c = 0; c < dim; c++) o[c] += alpha * hidden[c];
            }
            for (float& b : back) b *= share;
            for (int64_t i = 0; i < count; i++) {
                float* x = input + row[i] * dim;
                for (int64_t c = 0; c < dim; c++) x[c] += back[c];
            }
        }
        losses[e] = mass > 0 ? loss / mass : 0;
    }
}
