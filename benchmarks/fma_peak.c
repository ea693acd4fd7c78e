// The core's float32 peak: fused multiply-adds on registers only, as many independent chains as hide their latency.
// cc -O3 -march=native -ffast-math -shared -fPIC fma_peak.c -o fma_peak.so
#include <immintrin.h>
#include <time.h>

#if defined(__AVX512F__)
typedef __m512 vector;
#define LANES 16
#define SET _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#elif defined(__FMA__)
typedef __m256 vector;
#define LANES 8
#define SET _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#else
#error "FMA instructions are needed"
#endif

#define CHAINS 14

int lanes(void) { return LANES; }

// GFLOP/s (a multiply-add is two) of `rounds` rounds, by the thread's own CPU time; `sink` keeps the work alive.
double gflops(long rounds, float *sink) {
    vector chain[CHAINS];
    const vector factor = SET(0.999999f), term = SET(1e-7f);
    for (int i = 0; i < CHAINS; i++) chain[i] = SET(1.0f + i);
    struct timespec began, ended;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &began);
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 14
        for (int i = 0; i < CHAINS; i++) chain[i] = FMA(chain[i], factor, term);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ended);
    union { vector v; float f[LANES]; } sum = {.v = chain[0]};
    for (int i = 1; i < CHAINS; i++) sum.v = FMA(chain[i], factor, sum.v);
    *sink = sum.f[0];
    const double seconds = (ended.tv_sec - began.tv_sec) + 1e-9 * (ended.tv_nsec - began.tv_nsec);
    return 2.0 * LANES * CHAINS * rounds / seconds * 1e-9;
}
