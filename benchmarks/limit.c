// Hand-written loops of Lennard-Jones forces in float32: what one core can do, to compare the library with.
// benchmarks/harness.py builds them as a shared library: cc -O3 -march=native -ffast-math -shared -fPIC.
//
// Arrays are structures of arrays: the coordinates of one system are x[0..n), y[0..n) and, in three dimensions, z[0..n).
// The box is a cube; lengths and energies are in units of sigma and epsilon.

#include <math.h>
#include <stddef.h>

#if defined(__GNUC__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE static inline
#endif

#define CUTOFF_SQUARED 6.25f // (2.5 sigma)^2
#define ONSET_SQUARED 4.0f   // (2 sigma)^2, where the switched potential begins to differ

// -2 dE/dw, w the squared distance, of E = 4 (w^-6 - w^-3) within the cutoff. Times the displacement it is the force.
ALWAYS_INLINE float truncated(float w) {
  const float s = 1.0f / w, s3 = s * s * s;
  return 24.0f * s * s3 * (2.0f * s3 - 1.0f);
}

// The same of S(w) E(w): S = y^2 (3 - 2 y), y falls from 1 at the onset to 0 at the cutoff.
ALWAYS_INLINE float switched(float w) {
  const float width = CUTOFF_SQUARED - ONSET_SQUARED;
  const float s = 1.0f / w, s3 = s * s * s;
  const float y = fminf((CUTOFF_SQUARED - w) * (1.0f / width), 1.0f);
  return 24.0f * s * s3 * (2.0f * s3 - 1.0f) * (y * y * (3.0f - 2.0f * y)) +
         48.0f / width * s3 * (s3 - 1.0f) * (y * (1.0f - y));
}

// Adds the force of a pair to `force`; `counts` is 0 for a pair of a particle with itself.
ALWAYS_INLINE void add_pair(int dimension, int is_switched, const float *a, const float *b, float box, int counts,
                            float *force) {
  float dr[3], w = 0.0f;
  for (int k = 0; k < dimension; k++) {
    dr[k] = a[k] - b[k];
    dr[k] -= box * rintf(dr[k] * (1.0f / box));
    w += dr[k] * dr[k];
  }
  const int near = (w < CUTOFF_SQUARED) & counts;
  w = near ? w : 1.0f;
  const float scale = near ? (is_switched ? switched(w) : truncated(w)) : 0.0f;
  for (int k = 0; k < dimension; k++) force[k] += scale * dr[k];
}

ALWAYS_INLINE void all_pairs(int dimension, int systems, int n, const float *positions, float box, float *forces) {
  for (int system = 0; system < systems; system++) {
    const float *x = positions + (size_t)system * dimension * n;
    float *f = forces + (size_t)system * dimension * n;
    for (int i = 0; i < n; i++) {
      float a[3], sum[3] = {0.0f, 0.0f, 0.0f};
      for (int k = 0; k < dimension; k++) a[k] = x[k * n + i];
      for (int j = 0; j < n; j++) {
        float b[3];
        for (int k = 0; k < dimension; k++) b[k] = x[k * n + j];
        add_pair(dimension, 1, a, b, box, i != j, sum);
      }
      for (int k = 0; k < dimension; k++) f[k * n + i] = sum[k];
    }
  }
}

// Switched potential, many small systems over all pairs: positions and forces [systems, dimension, n].
void forces_all_pairs_2d(int systems, int n, const float *positions, float box, float *forces) {
  all_pairs(2, systems, n, positions, box, forces);
}

void forces_all_pairs_3d(int systems, int n, const float *positions, float box, float *forces) {
  all_pairs(3, systems, n, positions, box, forces);
}

// Truncated potential, one large system and its list: positions and forces [3, n], neighbors [n, capacity], in which a
// particle's own index pads.
void forces_neighbor_list_3d(int n, int capacity, const float *positions, const int *neighbors, float box, float *forces) {
  for (int i = 0; i < n; i++) {
    const float a[3] = {positions[i], positions[n + i], positions[2 * n + i]};
    const int *list = neighbors + (size_t)i * capacity;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int k = 0; k < capacity; k++) {
      const int j = list[k];
      const float b[3] = {positions[j], positions[n + j], positions[2 * n + j]};
      add_pair(3, 0, a, b, box, i != j, sum);
    }
    for (int k = 0; k < 3; k++) forces[(size_t)k * n + i] = sum[k];
  }
}
