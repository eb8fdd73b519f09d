//! Memory of the device, pinned memory of the host, and the sum of what a model needs.

use super::super::DeviceError;
use super::driver::{Gpu, check};
use super::layout::{cache_bytes, capacity};
use super::weights::weight_bytes;
use crate::model::Model;
use bytemuck::Pod;
use cudarc::driver::sys;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// An allocation on the device, freed when dropped.
pub struct Buffer {
    gpu: Arc<Gpu>,
    label: &'static str,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Allocates at least one byte; what it holds is undefined. softcuda counts its traffic under
    /// `label`, and errors name it.
    pub fn new(gpu: &Arc<Gpu>, label: &'static str, bytes: usize) -> Result<Buffer, DeviceError> {
        let bytes = bytes.max(1);
        let doing = || format!("allocating {bytes} bytes for {label}");
        gpu.bind(doing)?;
        let mut address = 0;
        // SAFETY: a place for an address.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        check(code, "cuMemAlloc", doing)?;
        gpu.label(address, label);
        Ok(Buffer {
            gpu: gpu.clone(),
            label,
            address,
            bytes,
        })
    }

    /// Allocates, and enqueues that all bytes become zero.
    pub fn zeroed(
        gpu: &Arc<Gpu>,
        label: &'static str,
        bytes: usize,
    ) -> Result<Buffer, DeviceError> {
        let buffer = Buffer::new(gpu, label, bytes)?;
        // SAFETY: the buffer is as long as it says.
        let code =
            unsafe { sys::cuMemsetD8Async(buffer.address, 0, buffer.bytes, buffer.gpu.stream()) };
        check(code, "cuMemsetD8Async", || format!("clearing {label}"))?;
        Ok(buffer)
    }

    /// Allocates, and copies `data` there.
    pub fn of<T: Pod>(
        gpu: &Arc<Gpu>,
        label: &'static str,
        data: &[T],
    ) -> Result<Buffer, DeviceError> {
        let buffer = Buffer::new(gpu, label, size_of_val(data))?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `data` to byte `at`, after all that was enqueued; `data` is free again on return.
    pub fn write<T: Pod>(&self, at: usize, data: &[T]) -> Result<(), DeviceError> {
        let data: &[u8] = bytemuck::cast_slice(data);
        let doing = || format!("copying {} bytes to {}", data.len(), self.label);
        self.within(at, data.len(), "cuMemcpyHtoDAsync", doing)?;
        let (to, from) = (self.address + at as u64, data.as_ptr().cast());
        // SAFETY: the range lies in the buffer; the copy is waited for below.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, data.len(), self.gpu.stream()) };
        check(code, "cuMemcpyHtoDAsync", doing)?;
        self.gpu.wait(doing)
    }

    /// Copies `count` elements from byte `at`, after all that was enqueued.
    pub fn read<T: Pod>(&self, at: usize, count: usize) -> Result<Vec<T>, DeviceError> {
        let mut data = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
        let (length, to) = (bytes.len(), bytes.as_mut_ptr().cast());
        let doing = || format!("copying {length} bytes from {}", self.label);
        self.within(at, length, "cuMemcpyDtoHAsync", doing)?;
        let from = self.address + at as u64;
        // SAFETY: the range lies in the buffer; the copy is waited for below.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, length, self.gpu.stream()) };
        check(code, "cuMemcpyDtoHAsync", doing)?;
        self.gpu.wait(doing)?;
        Ok(data)
    }

    /// Enqueues a copy of all bytes of `from`, which are as many.
    pub fn copy(&self, from: &Buffer) -> Result<(), DeviceError> {
        let doing = || format!("copying {} to {}", from.label, self.label);
        self.within(0, from.bytes, "cuMemcpyDtoDAsync", doing)?;
        let stream = self.gpu.stream();
        // SAFETY: the range lies in both; whoever drops one waits for the stream.
        let code =
            unsafe { sys::cuMemcpyDtoDAsync_v2(self.address, from.address, from.bytes, stream) };
        check(code, "cuMemcpyDtoDAsync", doing)
    }

    /// Makes the context current for a copy, which must lie in the buffer.
    fn within(
        &self,
        at: usize,
        length: usize,
        call: &'static str,
        doing: impl Fn() -> String,
    ) -> Result<(), DeviceError> {
        self.gpu.bind(&doing)?;
        match at.checked_add(length) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(DeviceError::Cuda {
                doing: doing(),
                call,
                said: format!(
                    "found {length} bytes at {at}, expected to end at {}",
                    self.bytes
                ),
            }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a broken context this fails, and the memory ends with the context.
        if self.gpu.bind(String::new).is_ok() {
            // SAFETY: allocated by `new` and freed once; the driver waits for kernels that use it.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Memory of the host that the device copies from and to on its own, and that kernels reach, freed
/// when dropped.
pub struct Pinned {
    gpu: Arc<Gpu>,
    start: NonNull<u8>,
    /// of the same memory, for kernels
    address: u64,
    bytes: usize,
}

// SAFETY: memory that belongs to this alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates `bytes`, or four where they are fewer, all zero; `label` as of [`Buffer::new`].
    pub fn new(gpu: &Arc<Gpu>, label: &'static str, bytes: usize) -> Result<Pinned, DeviceError> {
        let bytes = bytes.max(4);
        let doing = || format!("allocating {bytes} bytes of pinned memory for {label}");
        gpu.bind(doing)?;
        let mut start = null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: a place for a pointer.
        let code = unsafe { sys::cuMemHostAlloc(&mut start, bytes, flags) };
        check(code, "cuMemHostAlloc", doing)?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| DeviceError::Cuda {
            doing: doing(),
            call: "cuMemHostAlloc",
            said: "a null pointer".to_owned(),
        })?;
        // SAFETY: the driver gave this many bytes.
        unsafe { start.as_ptr().write_bytes(0, bytes) };
        // from here on dropping it gives it back
        let mut pinned = Pinned {
            gpu: gpu.clone(),
            start,
            address: 0,
            bytes,
        };
        let host = start.as_ptr().cast();
        // SAFETY: a place for an address; the memory was allocated above, to be mapped.
        let code = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut pinned.address, host, 0) };
        check(code, "cuMemHostGetDevicePointer", doing)?;
        gpu.label(pinned.address, label);
        Ok(pinned)
    }

    /// Its address for kernels.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its whole words, which kernels may write meanwhile: what a kernel wrote before a word with
    /// `__threadfence_system` between is there once an acquiring load finds that word.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: allocated and initialised by `new`, at a multiple of a page; atomics may change
        // while they are shared, and `bytes_mut` takes this whole.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// Its bytes.
    ///
    /// # Safety
    /// No copy from or to it is under way, and no kernel that reaches it.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated and initialised by `new`; the caller vouches for the device.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Where it starts.
    pub(super) fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.bind(String::new).is_ok() {
            // SAFETY: allocated by `new` and freed once, after the copies that use it.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.gpu.stream());
                let _ = sys::cuMemFreeHost(self.start.as_ptr().cast());
            }
        }
    }
}

/// Device memory that models need, in bytes; known before anything is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Packed weights, norms and biases.
    pub weights: usize,
    /// KV caches.
    pub kv: usize,
    /// Activations, partial sums, logits, staging.
    pub workspace: usize,
}

impl Need {
    /// What `model` needs for `positions` slots of its cache, besides its workspace.
    pub fn of(model: &Model, positions: usize) -> Need {
        let c = &model.config;
        Need {
            weights: weight_bytes(model),
            kv: cache_bytes(c.layers, c.kv_heads, c.head_dim, capacity(positions)),
            workspace: 0,
        }
    }

    /// Both together, for a target and its drafter.
    pub fn and(self, other: Need) -> Need {
        Need {
            weights: self.weights + other.weights,
            kv: self.kv + other.kv,
            workspace: self.workspace + other.workspace,
        }
    }

    /// All of it.
    pub fn total(self) -> usize {
        self.weights + self.kv + self.workspace
    }

    /// Refuses what does not fit in `free` bytes; `context` is what the user may lower.
    pub fn check(self, free: usize, context: usize) -> Result<(), DeviceError> {
        match self.total() <= free {
            true => Ok(()),
            false => Err(DeviceError::Memory {
                free,
                weights: self.weights,
                kv: self.kv,
                workspace: self.workspace,
                context,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let need = Need {
            weights: 5 << 20,
            kv: 3 << 20,
            workspace: 1 << 20,
        };
        let doubled = need.and(need);
        assert_eq!(doubled.total(), 18 << 20);
        assert!(doubled.check(18 << 20, 4096).is_ok());
        let error = doubled.check((18 << 20) - 1, 4096).unwrap_err().to_string();
        for part in [
            "18.0 MiB of free",
            "18.0 MiB are needed",
            "10.0 MiB for weights",
            "6.0 MiB for the KV",
            "4096",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
