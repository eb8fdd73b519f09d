//! Bytes that several threads read and write at the same time, as a device's memory is.
//!
//! Kernels may race: that is what the checks of a launch are for. So no reference to the bytes is
//! ever formed, and every access is checked against the length and goes through a raw pointer or,
//! for what must be indivisible, through an atomic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A range of host memory that stands for device memory.
#[derive(Debug)]
pub struct Bytes {
    start: *mut u8,
    len: usize,
    owned: bool,
}

// SAFETY: the pointer is owned or outlives the value by contract; accesses are raw copies or atomics
unsafe impl Send for Bytes {}
// SAFETY: as above; races between kernels are reported by the checks of the launch
unsafe impl Sync for Bytes {}

// calloc gives zero pages lazily only for alignments up to this one
const ALIGN: usize = 16;

fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.checked_next_multiple_of(ALIGN)?.max(ALIGN), ALIGN).ok()
}

impl Bytes {
    pub(super) fn zeroed(len: usize) -> Option<Bytes> {
        // SAFETY: the layout is never empty
        let start = unsafe { alloc_zeroed(layout(len)?) };
        (!start.is_null()).then_some(Bytes {
            start,
            len,
            owned: true,
        })
    }

    /// # Safety
    /// `len` bytes at `start` stay valid as long as the value lives.
    pub(super) unsafe fn foreign(start: *mut u8, len: usize) -> Bytes {
        Bytes {
            start,
            len,
            owned: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "{len} bytes at {offset} of {}",
            self.len
        );
        // SAFETY: inside the range, as just checked
        unsafe { self.start.add(offset) }
    }

    /// Copies out. Panics outside the range: callers check first.
    #[inline(always)]
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let from = self.at(offset, data.len());
        // SAFETY: checked by `at`; `data` is exclusive, so the two cannot overlap
        unsafe { std::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) }
    }

    /// The `N` bytes at `offset`. Panics outside the range: callers check first.
    #[inline(always)]
    pub fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let from = self.at(offset, N);
        // SAFETY: checked by `at`; bytes have no alignment and no invalid value
        unsafe { from.cast::<[u8; N]>().read() }
    }

    /// Copies in. Panics outside the range: callers check first.
    #[inline(always)]
    pub fn write(&self, offset: usize, data: &[u8]) {
        let to = self.at(offset, data.len());
        // SAFETY: checked by `at`; `data` is no part of device memory
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) }
    }

    /// The two bytes at `offset`, for indivisible access.
    #[inline(always)]
    pub fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        let at = self.at(offset, 2).cast::<u16>();
        assert!(at.is_aligned(), "an atomic of 2 bytes at {offset}");
        // SAFETY: in range and aligned
        unsafe { AtomicU16::from_ptr(at) }
    }

    /// The four bytes at `offset`, for indivisible access.
    #[inline(always)]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let at = self.at(offset, 4).cast::<u32>();
        assert!(at.is_aligned(), "an atomic of 4 bytes at {offset}");
        // SAFETY: in range and aligned
        unsafe { AtomicU32::from_ptr(at) }
    }

    /// The eight bytes at `offset`, for indivisible access.
    #[inline(always)]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let at = self.at(offset, 8).cast::<u64>();
        assert!(at.is_aligned(), "an atomic of 8 bytes at {offset}");
        // SAFETY: in range and aligned
        unsafe { AtomicU64::from_ptr(at) }
    }

    /// Replaces the `width` bytes at `offset` (2, 4, 8 or 16) by what `change` makes of them; gives
    /// the old and the new ones. Up to 8 bytes change indivisibly; among changes of 16, which no
    /// host has as one instruction, the caller sees to it.
    #[inline(always)]
    pub fn change(&self, offset: usize, width: u32, change: impl Fn(u128) -> u128) -> (u128, u128) {
        macro_rules! whole {
            ($cell:expr, $word:ty) => {{
                let next = |old: $word| Some(change(old.into()) as $word);
                let done = $cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
                let old = done.unwrap_or_else(|old| old).into();
                (old, change(old) as $word as u128)
            }};
        }
        match width {
            2 => whole!(self.atomic_u16(offset), u16),
            4 => whole!(self.atomic_u32(offset), u32),
            8 => whole!(self.atomic_u64(offset), u64),
            _ => {
                let old = u128::from_le_bytes(self.array(offset));
                let new = change(old);
                self.write(offset, &new.to_le_bytes());
                (old, new)
            }
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let (true, Some(layout)) = (self.owned, layout(self.len)) {
            // SAFETY: allocated by `zeroed` with this layout
            unsafe { dealloc(self.start, layout) }
        }
    }
}

/// `count` atomic zeros; pages of the system stay untouched until they are used.
pub(super) fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    bytemuck::zeroed_slice_box(count)
}
