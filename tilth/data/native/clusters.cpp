// Union-find over ranks, keepers, and the splitting of clusters that chaining made. The plain forms are in clusters.py.
#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {
int64_t root(int64_t* parent, int64_t x) {
    while (parent[x] != x) x = parent[x] = parent[parent[x]];
    return x;
}
}  // namespace

// Unites the ends of m links, int64 [m, 2]. The root of a set is its least member whatever the order of the links.
API void unite(int64_t* parent, const int64_t* links, int64_t m) {
    for (int64_t i = 0; i < m; ++i) {
        int64_t a = root(parent, links[2 * i]), b = root(parent, links[2 * i + 1]);
        if (a != b) parent[std::max(a, b)] = std::min(a, b);
    }
}

// Every member points to its root itself, as no parent is greater than its child.
API void flatten(int64_t* parent, int64_t n) {
    for (int64_t i = 0; i < n; ++i) parent[i] = parent[parent[i]];
}

// Counts members and finds the keeper of each root: the least (first, second, rank). Called for slices of ranks, from
// `begin`; order uint64 [n, 2]; keeper int64 of all, -1 where there is none yet; best uint64 [all, 2].
API void keepers(const int64_t* roots, int64_t begin, int64_t n, const uint64_t* order, int64_t* size, int64_t* keeper,
                 uint64_t* best) {
    for (int64_t i = 0; i < n; ++i) {
        int64_t r = roots[begin + i];
        ++size[r];
        uint64_t first = order[2 * i], second = order[2 * i + 1];
        uint64_t* b = best + 2 * r;
        if (keeper[r] >= 0 && (b[0] < first || (b[0] == first && b[1] <= second))) continue;
        keeper[r] = begin + i;
        b[0] = first;
        b[1] = second;
    }
}

// Splits n documents, best first: each joins the first leader that shares a key with it and whose signature agrees in
// at least `enough` of the `functions` places, or becomes a leader. leader int64 [n]: its place; keys uint64 [n, k];
// brief uint16 [n, functions]. A key remembers `crowd` leaders.
API void split(int64_t n, const uint64_t* keys, int k, const uint16_t* brief, int functions, int enough, int crowd,
               int64_t* leader) {
    std::unordered_map<uint64_t, std::vector<int64_t>> leaders;
    std::vector<int64_t> found;
    for (int64_t i = 0; i < n; ++i) {
        found.clear();
        for (int j = 0; j < k; ++j) {
            auto at = leaders.find(keys[i * k + j]);
            if (at != leaders.end()) found.insert(found.end(), at->second.begin(), at->second.end());
        }
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        leader[i] = i;
        for (int64_t other : found) {
            int same = 0;
            for (int j = 0; j < functions; ++j) same += brief[i * functions + j] == brief[other * functions + j];
            if (same >= enough) { leader[i] = other; break; }
        }
        if (leader[i] != i) continue;
        for (int j = 0; j < k; ++j) {
            auto& bucket = leaders[keys[i * k + j]];
            if (int(bucket.size()) < crowd) bucket.push_back(i);
        }
    }
}
