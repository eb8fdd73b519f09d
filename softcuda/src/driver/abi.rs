//! Types that cross the C interface, laid out as `cuda.h` has them.
//!
//! Enumerations of the caller are plain integers here: a value that this driver does not know
//! must be an error, not undefined behaviour.

use super::error::{ERROR_INVALID_VALUE, Result};
use std::ffi::{CStr, c_char, c_void};

/// An opaque handle (`CUcontext`, `CUstream`, ...): a pointer to the caller, a key here.
pub type Handle = usize;

/// A pointer through which a function answers.
#[repr(transparent)]
pub struct Out<T>(pub *mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Writes the answer; a null pointer is an invalid value.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the driver interface asks its caller for a valid pointer; null was checked.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the answer where the caller asked for it.
    pub fn set_if_asked(self, value: T) {
        let _ = self.set(value);
    }

    /// True where the caller did not ask.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Element `index` of an array of answers.
    pub fn at(self, index: usize) -> Out<T> {
        Out(self.0.wrapping_add(index))
    }
}

/// A pointer to an argument.
#[repr(transparent)]
pub struct In<T>(pub *const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// The argument; a null pointer is an invalid value.
    pub fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the driver interface asks its caller for a valid pointer; null was checked.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Whether there is none.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The `count` arguments that start here.
    pub fn list(self, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() || count > (1 << 24) {
            return Err(ERROR_INVALID_VALUE);
        }
        Ok((0..count)
            .map(|i| {
                // SAFETY: the caller vouches for `count` arguments from here on.
                unsafe { self.0.add(i).read_unaligned() }
            })
            .collect())
    }
}

/// A zero-terminated text.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(pub *const c_char);

impl Text {
    /// The text; null and what is not UTF-8 are invalid values.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the driver interface asks for a zero-terminated text; null was checked.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str()
            .map(str::to_owned)
            .map_err(|_| ERROR_INVALID_VALUE)
    }
}

/// `CUuuid`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Uuid {
    pub bytes: [u8; 16],
}

/// `CUlaunchAttribute`: the value is a union of 64 bytes that begins with what is read here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    pub id: u32,
    pub pad: [u8; 4],
    pub value: [u32; 16],
    // The union holds pointers.
    align: [u64; 0],
}

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: Handle,
    pub attrs: In<LaunchAttribute>,
    pub num_attrs: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`; the first version ends before `kernel`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParamsV1 {
    pub func: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParams {
    pub v1: KernelNodeParamsV1,
    pub kernel: Handle,
    pub context: Handle,
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2d {
    pub src_x: usize,
    pub src_y: usize,
    pub src_type: u32,
    pub src_host: usize,
    pub src_device: u64,
    pub src_array: Handle,
    pub src_pitch: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_type: u32,
    pub dst_host: usize,
    pub dst_device: u64,
    pub dst_array: Handle,
    pub dst_pitch: usize,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Memcpy3d {
    pub src_x: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_type: u32,
    pub src_host: usize,
    pub src_device: u64,
    pub src_array: Handle,
    pub reserved0: usize,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_type: u32,
    pub dst_host: usize,
    pub dst_device: u64,
    pub dst_array: Handle,
    pub reserved1: usize,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`; the second version adds a context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemsetNodeParams {
    pub dst: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_bytes: u32,
    pub width: usize,
    pub height: usize,
}

/// What `cuLaunchHostFunc` calls.
pub type HostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// What `cuStreamAddCallback` calls.
pub type StreamCallback = Option<unsafe extern "C" fn(Handle, u32, *mut c_void)>;

/// What `cuOccupancyMaxPotentialBlockSize` asks for the dynamic shared memory of a block size.
pub type BlockSizeToShared = Option<unsafe extern "C" fn(i32) -> usize>;

/// `CUDA_HOST_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostNodeParams {
    pub function: HostFn,
    pub data: *mut c_void,
}

/// `CUgraphEdgeData`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EdgeData {
    /// 0: completion; 1: the point at which all blocks have called `launch_dependents`; 2: all
    /// blocks have begun.
    pub from_port: u8,
    pub to_port: u8,
    /// 0: full; 1: programmatic.
    pub kind: u8,
    pub reserved: [u8; 5],
}

/// `CUmemLocation`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemLocation {
    pub kind: u32,
    pub id: i32,
}

/// `CUmemAccessDesc`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemAccess {
    pub location: MemLocation,
    pub flags: u32,
}

/// `CUmemPoolProps`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemPoolProps {
    pub alloc_type: u32,
    pub handle_types: u32,
    pub location: MemLocation,
    pub security: usize,
    pub max_size: usize,
    pub usage: u16,
    pub reserved: [u8; 54],
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GraphInstantiateParams {
    pub flags: u64,
    pub upload_stream: Handle,
    pub error_node: Handle,
    pub result: u32,
}

/// `CUgraphExecUpdateResultInfo`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GraphExecUpdateResultInfo {
    pub result: u32,
    pub error_node: Handle,
    pub error_from_node: Handle,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys;
    use std::mem::{align_of, offset_of, size_of};

    macro_rules! same_layout {
        ($($own:ty, $other:ty;)*) => {$(
            assert_eq!(size_of::<$own>(), size_of::<$other>(), stringify!($own));
            assert_eq!(align_of::<$own>(), align_of::<$other>(), stringify!($own));
        )*};
    }

    #[test]
    fn structures_are_laid_out_as_in_the_header() {
        same_layout! {
            Uuid, sys::CUuuid;
            LaunchAttribute, sys::CUlaunchAttribute;
            LaunchConfig, sys::CUlaunchConfig;
            KernelNodeParams, sys::CUDA_KERNEL_NODE_PARAMS;
            Memcpy2d, sys::CUDA_MEMCPY2D;
            Memcpy3d, sys::CUDA_MEMCPY3D;
            MemsetNodeParams, sys::CUDA_MEMSET_NODE_PARAMS;
            HostNodeParams, sys::CUDA_HOST_NODE_PARAMS;
            MemLocation, sys::CUmemLocation;
            MemAccess, sys::CUmemAccessDesc;
            MemPoolProps, sys::CUmemPoolProps;
            GraphInstantiateParams, sys::CUDA_GRAPH_INSTANTIATE_PARAMS;
            GraphExecUpdateResultInfo, sys::CUgraphExecUpdateResultInfo;
        }
        assert_eq!(
            offset_of!(LaunchAttribute, value),
            offset_of!(sys::CUlaunchAttribute, value)
        );
        assert_eq!(
            offset_of!(LaunchConfig, stream),
            offset_of!(sys::CUlaunchConfig, hStream)
        );
        assert_eq!(
            offset_of!(LaunchConfig, attrs),
            offset_of!(sys::CUlaunchConfig, attrs)
        );
        let params = offset_of!(sys::CUDA_KERNEL_NODE_PARAMS, kernelParams);
        assert_eq!(offset_of!(KernelNodeParamsV1, params), params);
        let kernel = offset_of!(sys::CUDA_KERNEL_NODE_PARAMS, kern);
        assert_eq!(offset_of!(KernelNodeParams, kernel), kernel);
        assert_eq!(
            offset_of!(Memcpy2d, dst_type),
            offset_of!(sys::CUDA_MEMCPY2D, dstMemoryType)
        );
        assert_eq!(
            offset_of!(Memcpy2d, height),
            offset_of!(sys::CUDA_MEMCPY2D, Height)
        );
        assert_eq!(
            offset_of!(Memcpy3d, dst_host),
            offset_of!(sys::CUDA_MEMCPY3D, dstHost)
        );
        assert_eq!(
            offset_of!(Memcpy3d, depth),
            offset_of!(sys::CUDA_MEMCPY3D, Depth)
        );
        let security = offset_of!(sys::CUmemPoolProps, win32SecurityAttributes);
        assert_eq!(offset_of!(MemPoolProps, security), security);
        let result = offset_of!(sys::CUDA_GRAPH_INSTANTIATE_PARAMS, result_out);
        assert_eq!(offset_of!(GraphInstantiateParams, result), result);
    }
}
