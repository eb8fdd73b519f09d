//! Eight f32 lanes, once with AVX2 + FMA + F16C and once in portable Rust.
//!
//! Every kernel of the CPU device is written once against [`Simd`]. The two
//! implementations differ in the last bits (the portable one does not fuse), so
//! a device chooses one when it is opened and keeps it.
//!
//! A kernel body is `#[inline(always)]` all the way down, so that it is compiled
//! with the instruction set of the entry point that [`entry_points`] makes for it.

/// Eight lanes of f32.
///
/// # Safety
/// Every method requires the instruction set of the implementation, and pointers
/// that are valid for the lanes read or written; no alignment is needed.
pub(super) trait Simd: Copy + 'static {
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2^n for whole n in -126..=127
    unsafe fn exp2_whole(n: Self::V) -> Self::V;
    /// `v` where `x >= limit`, else 0
    unsafe fn keep_from(x: Self::V, limit: f32, v: Self::V) -> Self::V;
    /// The eight even ones of sixteen bf16: widening is a shift.
    unsafe fn bf16_even(p: *const u8) -> Self::V;
    /// The eight odd ones of sixteen bf16: widening is a mask.
    unsafe fn bf16_odd(p: *const u8) -> Self::V;
    /// Eight f16, in order.
    unsafe fn f16(p: *const u8) -> Self::V;
    /// ((v0+v1)+(v2+v3)) + ((v4+v5)+(v6+v7)), the one order of every sum over lanes.
    unsafe fn sum(v: Self::V) -> f32;
    /// The sums of four vectors, each in the order of [`Simd::sum`].
    unsafe fn sum4(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> [f32; 4];
    unsafe fn largest(v: Self::V) -> f32;
    /// The eight even and the eight odd ones of sixteen.
    unsafe fn unzip(low: Self::V, high: Self::V) -> (Self::V, Self::V);
    unsafe fn prefetch(p: *const u8);
    /// Into the second cache only.
    unsafe fn prefetch_second(p: *const u8);
}

/// The same pointer, of which the compiler no longer knows what it has loaded through it:
/// reading twice from the first cache is cheaper than keeping a value in a register that
/// sums need.
#[inline(always)]
pub(super) fn reload<T>(p: *const T) -> *const T {
    #[cfg(target_arch = "x86_64")]
    {
        let mut p = p;
        // SAFETY: no instruction at all, so no memory is touched.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) p, options(pure, readonly, nostack, preserves_flags));
        }
        p
    }
    #[cfg(not(target_arch = "x86_64"))]
    p
}

/// exp(x) to about 1 ulp; 0 below -87.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller grants S's instruction set; nothing else is required.
    unsafe {
        let y = S::max(S::min(x, S::splat(88.0)), S::splat(-87.0));
        let n = S::round(S::mul(y, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts (Cody and Waite): n * HI is exact
        let r = S::fma(n, S::splat(-0.693_359_4), y);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        // Taylor to degree 7: |r| <= ln2 / 2, so the remainder is below 2^-26
        let mut p = S::splat(1.0 / 5040.0);
        for c in [
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ] {
            p = S::fma(p, r, S::splat(c));
        }
        S::keep_from(x, -87.0, S::mul(p, S::exp2_whole(n)))
    }
}

/// Portable lanes; the compiler vectorises them with what the target has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [0f32; 8];
        for $i in 0..8 {
            out[$i] = $e;
        }
        out
    }};
}

impl Simd for Portable {
    type V = [f32; 8];
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller's pointer is valid for 8 lanes.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: as for load.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        // as vmaxps: the second where either is NaN
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 8]) -> [f32; 8] {
        // adding 1.5 * 2^23 rounds to nearest even for the small values exp meets
        lanes!(i => (a[i] + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: [f32; 8]) -> [f32; 8] {
        lanes!(i => f32::from_bits((((n[i] as i32) + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn keep_from(x: [f32; 8], limit: f32, v: [f32; 8]) -> [f32; 8] {
        lanes!(i => if x[i] >= limit { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn bf16_even(p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's pointer is valid for 32 bytes.
        let raw = unsafe { p.cast::<[u32; 8]>().read_unaligned() };
        lanes!(i => f32::from_bits(raw[i] << 16))
    }
    #[inline(always)]
    unsafe fn bf16_odd(p: *const u8) -> [f32; 8] {
        // SAFETY: as for bf16_even.
        let raw = unsafe { p.cast::<[u32; 8]>().read_unaligned() };
        lanes!(i => f32::from_bits(raw[i] & 0xffff_0000))
    }
    #[inline(always)]
    unsafe fn f16(p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's pointer is valid for 16 bytes.
        let raw = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        lanes!(i => half::f16::from_bits(raw[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]))
    }
    #[inline(always)]
    unsafe fn sum4(a: [f32; 8], b: [f32; 8], c: [f32; 8], d: [f32; 8]) -> [f32; 4] {
        // SAFETY: plain Rust.
        unsafe { [Self::sum(a), Self::sum(b), Self::sum(c), Self::sum(d)] }
    }
    #[inline(always)]
    unsafe fn largest(v: [f32; 8]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn unzip(low: [f32; 8], high: [f32; 8]) -> ([f32; 8], [f32; 8]) {
        let at = |i: usize| if i < 8 { low[i] } else { high[i - 8] };
        (lanes!(i => at(2 * i)), lanes!(i => at(2 * i + 1)))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_second(_: *const u8) {}
}

/// AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2;

#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one contract holds for all of them, stated once"
)]
mod avx2 {
    use super::{Avx2, Simd};
    use std::arch::x86_64::*;

    // SAFETY of every block below: the trait's contract (AVX2, FMA and F16C are
    // there, and pointers are valid for the lanes touched).
    impl Simd for Avx2 {
        type V = __m256;
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn exp2_whole(n: __m256) -> __m256 {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        unsafe fn keep_from(x: __m256, limit: f32, v: __m256) -> __m256 {
            unsafe { _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_GE_OQ>(x, _mm256_set1_ps(limit))) }
        }
        #[inline(always)]
        unsafe fn bf16_even(p: *const u8) -> __m256 {
            unsafe {
                let raw = _mm256_loadu_si256(p.cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(raw))
            }
        }
        #[inline(always)]
        unsafe fn bf16_odd(p: *const u8) -> __m256 {
            unsafe {
                let raw = _mm256_loadu_si256(p.cast());
                let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(raw, mask))
            }
        }
        #[inline(always)]
        unsafe fn f16(p: *const u8) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let pairs = _mm256_hadd_ps(v, v); // v0+v1, v2+v3, .. | v4+v5, v6+v7, ..
                let fours = _mm256_hadd_ps(pairs, pairs);
                let high = _mm256_extractf128_ps::<1>(fours);
                _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(fours), high))
            }
        }
        #[inline(always)]
        unsafe fn sum4(a: __m256, b: __m256, c: __m256, d: __m256) -> [f32; 4] {
            unsafe {
                let fours = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let high = _mm256_extractf128_ps::<1>(fours);
                let mut out = [0f32; 4];
                _mm_storeu_ps(
                    out.as_mut_ptr(),
                    _mm_add_ps(_mm256_castps256_ps128(fours), high),
                );
                out
            }
        }
        #[inline(always)]
        unsafe fn largest(v: __m256) -> f32 {
            unsafe {
                let m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
                _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps::<1>(m, m)))
            }
        }
        #[inline(always)]
        unsafe fn unzip(low: __m256, high: __m256) -> (__m256, __m256) {
            unsafe {
                // within 128-bit halves, then the middle quarters change places
                let place = |v: __m256| {
                    let v = _mm256_castps_pd(v);
                    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(v))
                };
                let even = _mm256_shuffle_ps::<0b10_00_10_00>(low, high);
                let odd = _mm256_shuffle_ps::<0b11_01_11_01>(low, high);
                (place(even), place(odd))
            }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_second(p: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
    }
}

/// What this processor offers, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Isa::Avx2;
        }
        Isa::Portable
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2 + FMA + F16C",
        }
    }
}

/// Makes `fn name(isa, args)` that runs `body::<S>(args)` compiled for `isa`.
///
/// Sound because an [`Isa`] other than `Portable` only comes from [`Isa::best`].
macro_rules! entry_points {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::device::cpu::simd::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn with_avx2($($arg: $ty),*) {
                // SAFETY: the caller's contract, passed on.
                unsafe { $body::<$crate::device::cpu::simd::Avx2>($($arg),*) }
            }
            // SAFETY: the caller's contract; an Isa names only what the processor has.
            unsafe {
                match isa {
                    $crate::device::cpu::simd::Isa::Portable => {
                        $body::<$crate::device::cpu::simd::Portable>($($arg),*)
                    }
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::simd::Isa::Avx2 => with_avx2($($arg),*),
                }
            }
        }
    };
}
pub(super) use entry_points;
