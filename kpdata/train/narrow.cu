// 3x3 convolutions of 32 channels, stride 1, padding 1, of bf16 in NHWC, and their gradients: see narrow.py.
//
// A block of threads takes bands of whole image rows, one after the other: while it computes on one in shared memory, the
// next is on its way. Rows and columns around the picture are zeros there, so that nobody asks where the picture ends.
// The tensor cores read every tap of the kernel from that one copy.

typedef unsigned int u32;
typedef unsigned short bf16;

#define CHANNELS 32
#define TAPS 9
#define WEIGHTS (TAPS * CHANNELS * CHANNELS)
#define PIXEL (CHANNELS * 2)  // bytes

// Where 8 channels (`chunk` of 4) of a pixel lie in shared memory, in bytes. Chunks change places from one pair of pixels
// to the next: any 8 pixels in a row then lie in different banks.
__device__ __forceinline__ u32 at(u32 pixel, u32 chunk) { return pixel * PIXEL + ((chunk ^ (pixel >> 1 & 3)) << 4); }

__device__ __forceinline__ u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes from global memory, or zeros, into shared memory: on their way when `sent`, there when `arrived`.
__device__ __forceinline__ void bring(u32 to, const bf16* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void sent() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Four matrices of 8 x 8, whose rows are 16 bytes where each lane says; `transposed` gives them so.
__device__ __forceinline__ void matrices(u32 (&r)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void transposed(u32 (&r)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
// c (16 x 8, fp32) += a (16 x 16) * b (16 x 8), spread over the warp as PTX's "mma.m16n8k16" has it.
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ u32 packed(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// A band of an image: `rows` of `width` pixels from row `top` on, which may be outside; `inverse` is 2^32 / width, rounded
// up. edge: columns of zeros left and right, which are there already.
__device__ __forceinline__ void bring_band(u32 to, const bf16* image, int top, int rows, int height, int width, u32 inverse, int edge) {
    for (int i = threadIdx.x; i < rows * width * 4; i += blockDim.x) {
        int pixel = i >> 2, row = __umulhi(pixel, inverse), column = pixel - row * width;
        bool there = top + row >= 0 && top + row < height;
        const bf16* from = image + (there ? ((top * width + pixel) * CHANNELS + (i & 3) * 8) : 0);
        bring(to + at(row * (width + 2 * edge) + column + edge, i & 3), from, there);
    }
}

__device__ __forceinline__ void clear_edges(u32 to, int rows, int width) {
    for (int i = threadIdx.x; i < rows * 8; i += blockDim.x) {
        u32 place = to + at(i / 8 * (width + 2) + (i & 4 ? width + 1 : 0), i & 3);
        asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(place), "r"(0) : "memory");
    }
}

// y = x * w; backward: the gradient of x from that of y, which is the same with `w` turned around and transposed.
// A warp holds all weights in registers, and takes 16 pixels at a time.
extern "C" __global__ void __launch_bounds__(256, 1) convolve(
    const bf16* x, const bf16* w, bf16* y, int images, int height, int width, int band, int inverse, int backward) {
    extern __shared__ __align__(128) char memory[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 weights = address(memory), buffers = weights + WEIGHTS * 2;
    const int size = (band + 2) * (width + 2) * PIXEL;
    const int bands = (height + band - 1) / band, total = images * bands;
    const long long area = (long long)height * width * CHANNELS;
    clear_edges(buffers, band + 2, width);
    clear_edges(buffers + size, band + 2, width);
    bring_band(buffers, x + blockIdx.x / bands * area, blockIdx.x % bands * band - 1, band + 2, height, width, inverse, 1);
    sent();
#pragma unroll  // so that all are on their way at once
    for (int part = 0; part < WEIGHTS / 256; part++) {
        int i = part * 256 + threadIdx.x, tap = i >> 10, output = i >> 5 & 31, input = i & 31;
        bf16 value = backward ? w[(input * TAPS + TAPS - 1 - tap) * CHANNELS + output] : w[(output * TAPS + tap) * CHANNELS + input];
        *(bf16*)(memory + at(tap * CHANNELS + output, input >> 3) + (input & 7) * 2) = value;
    }
    __syncthreads();
    // Of block j of 8 outputs, a thread gets columns 2t and 2t + 1: let those be channels 8t + 2j and the next, and over
    // all j it has 8 neighbours to write.
    u32 b[TAPS][2][2][4];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int n = lane & 7, output = (n >> 1) * 8 + 2 * (2 * j + (lane >> 4)) + (n & 1);
                matrices(b[tap][k][j], weights + at(tap * CHANNELS + output, 2 * k + (lane >> 3 & 1)));
            }
    int turn = 0;
    for (int t = blockIdx.x; t < total; t += gridDim.x, turn ^= 1) {
        arrived();
        __syncthreads();
        const int next = t + gridDim.x;
        if (next < total)
            bring_band(buffers + (turn ^ 1) * size, x + next / bands * area, next % bands * band - 1, band + 2, height, width, inverse, 1);
        sent();
        const u32 here = buffers + turn * size;
        const int top = t % bands * band, count = min(band, height - top) * width;
        bf16* out = y + t / bands * area + top * width * CHANNELS + (lane & 3) * 8;
        for (int start = warp * 16; start < count; start += 128) {
            float c[4][4] = {};
            const int pixel = start + (lane & 15), place = pixel + 2 * __umulhi(pixel, inverse);
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    u32 a[4];
                    matrices(a, here + at(place + tap / 3 * (width + 2) + tap % 3, 2 * k + (lane >> 4)));
#pragma unroll
                    for (int j = 0; j < 4; j++) multiply(c[j], a, b[tap][k][j >> 1][(j & 1) * 2], b[tap][k][j >> 1][(j & 1) * 2 + 1]);
                }
#pragma unroll
            for (int half = 0; half < 4; half += 2) {  // rows of c: 8 pixels, and 8 more
                const int row = start + half * 4 + (lane >> 2);
                if (row < count)
                    *(uint4*)(out + row * CHANNELS) = make_uint4(packed(c[0][half], c[0][half + 1]), packed(c[1][half], c[1][half + 1]),
                                                                 packed(c[2][half], c[2][half + 1]), packed(c[3][half], c[3][half + 1]));
            }
        }
    }
}

// Every block's share of the gradient of w, (blocks, 32, 3, 3, 32). A warp has one row of the kernel, and a quarter of the
// pixels, 16 at a time.
extern "C" __global__ void __launch_bounds__(384, 1) weights_gradient(
    const bf16* x, const bf16* dy, float* shares, int images, int height, int width, int band, int inverse) {
    extern __shared__ __align__(128) char memory[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = warp % 3, quarter = warp / 3;
    const int wide = (band + 2) * (width + 2) * PIXEL, size = wide + band * width * PIXEL;
    const u32 buffers = address(memory);
    const int bands = (height + band - 1) / band, total = images * bands;
    const long long area = (long long)height * width * CHANNELS;
    auto bring_both = [&](u32 to, int t) {
        bring_band(to, x + t / bands * area, t % bands * band - 1, band + 2, height, width, inverse, 1);
        bring_band(to + wide, dy + t / bands * area, t % bands * band, band, height, width, inverse, 0);
    };
    clear_edges(buffers, band + 2, width);
    clear_edges(buffers + size, band + 2, width);
    bring_both(buffers, blockIdx.x);
    sent();
    float c[3][2][4][4] = {};
    int turn = 0;
    for (int t = blockIdx.x; t < total; t += gridDim.x, turn ^= 1) {
        arrived();
        __syncthreads();
        if (t + gridDim.x < total) bring_both(buffers + (turn ^ 1) * size, t + gridDim.x);
        sent();
        const u32 here = buffers + turn * size;
        for (int start = quarter * 16; start < band * width; start += 64) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++) transposed(a[m], here + wide + at(start + (lane >> 4) * 8 + (lane & 7), 2 * m + (lane >> 3 & 1)));
            const int pixel = start + (lane & 15), place = pixel + 2 * __umulhi(pixel, inverse) + row * (width + 2);
#pragma unroll
            for (int column = 0; column < 3; column++)
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    u32 b[4];
                    transposed(b, here + at(place + column, 2 * n + (lane >> 4)));
#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        multiply(c[column][m][2 * n], a[m], b[0], b[1]);
                        multiply(c[column][m][2 * n + 1], a[m], b[2], b[3]);
                    }
                }
        }
    }
    __syncthreads();
    // The quarters one after the other. Inputs change places from output to output: 16 threads write to different banks.
    float* sums = (float*)memory;
    for (int now = 0; now < 4; now++) {
        if (now == quarter) {
#pragma unroll
            for (int i = 0; i < 48; i++) {
                int column = i / 16, m = i / 8 % 2, n = i / 2 % 4, half = i % 2 * 2;
                int output = m * 16 + (lane >> 2) + half * 4, input = n * 8 + (lane & 3) * 2;
                float2* sum = (float2*)(sums + (output * TAPS + row * 3 + column) * CHANNELS + (input + output * 8 & 31));
                float2 before = now ? *sum : make_float2(0, 0);
                *sum = make_float2(before.x + c[column][m][n][half], before.y + c[column][m][n][half + 1]);
            }
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < WEIGHTS; i += blockDim.x)
        shares[blockIdx.x * WEIGHTS + i] = sums[(i & ~31) + (i + i / (TAPS * CHANNELS) * 8 & 31)];
}

// The sum of the shares in bf16, always in the same order.
extern "C" __global__ void __launch_bounds__(256) add_shares(const float* shares, bf16* dw, int count) {
    __shared__ float parts[8][32];
    const int lane = threadIdx.x & 31, part = threadIdx.x >> 5, place = blockIdx.x * 32 + lane;
    float sum = 0;
    for (int i = part; i < count; i += 8) sum += shares[i * WEIGHTS + place];
    parts[part][lane] = sum;
    __syncthreads();
    if (part) return;
    for (int i = 1; i < 8; i++) sum += parts[i][lane];
    dw[place] = (bf16)packed(sum, 0);
}
