//! Entry points by their names, with handles as numbers: those that cudarc's bindings of CUDA 12.0
//! have not, or hide behind enumerations.

use cudarc::driver::sys::CUresult;
use std::ffi::{c_char, c_void};
use std::sync::LazyLock;

/// The driver that the process has loaded.
static DRIVER: LazyLock<libloading::Library> = LazyLock::new(|| {
    // SAFETY: softcuda runs no code when it is loaded.
    unsafe { libloading::Library::new("libcuda.so") }.expect("softcuda, as libcuda.so")
});

/// A function of the driver.
///
/// # Safety
/// `F` is its type.
pub unsafe fn named<F: Copy>(name: &str) -> F {
    // SAFETY: the caller says so.
    unsafe { *DRIVER.get::<F>(name.as_bytes()).expect("an entry point") }
}

/// The codes that these tests expect. A number that is none of the bindings' enumeration must not
/// become one.
fn code(number: u32) -> CUresult {
    use CUresult::*;
    let codes = [
        CUDA_SUCCESS,
        CUDA_ERROR_INVALID_VALUE,
        CUDA_ERROR_NOT_INITIALIZED,
        CUDA_ERROR_INVALID_DEVICE,
        CUDA_ERROR_INVALID_CONTEXT,
        CUDA_ERROR_CONTEXT_IS_DESTROYED,
        CUDA_ERROR_FILE_NOT_FOUND,
        CUDA_ERROR_OPERATING_SYSTEM,
        CUDA_ERROR_INVALID_HANDLE,
        CUDA_ERROR_ILLEGAL_STATE,
        CUDA_ERROR_NOT_FOUND,
        CUDA_ERROR_NOT_SUPPORTED,
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
        CUDA_ERROR_CAPTURED_EVENT,
        CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
        CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
    ];
    let known = codes.into_iter().find(|&known| known as u32 == number);
    known.unwrap_or_else(|| panic!("code {number}"))
}

macro_rules! entry_points {
    ($(fn $name:ident($($argument:ident: $ty:ty),* $(,)?);)*) => {$(
        #[allow(non_snake_case, clippy::too_many_arguments, clippy::missing_safety_doc)]
        pub unsafe fn $name($($argument: $ty),*) -> CUresult {
            // SAFETY: the types are those of `cuda.h`; the tests keep its rules.
            code(unsafe {
                named::<unsafe extern "C" fn($($ty),*) -> u32>(stringify!($name))($($argument),*)
            })
        }
    )*};
}

pub type Handle = usize;

/// `CUgraphEdgeData`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Edge {
    pub from_port: u8,
    pub to_port: u8,
    pub kind: u8,
    pub reserved: [u8; 5],
}

/// From the point at which all blocks have called `launch_dependents`.
pub const PROGRAMMATIC: Edge = Edge {
    from_port: 1,
    to_port: 0,
    kind: 1,
    reserved: [0; 5],
};

/// `CUDA_KERNEL_NODE_PARAMS`; the last two fields are of its second version.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub arguments: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub kernel: Handle,
    pub context: Handle,
}

/// `CUmemLocation`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

/// `CUmemAccessDesc`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    pub location: Location,
    pub flags: u32,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instantiation {
    pub flags: u64,
    pub stream: Handle,
    pub error_node: Handle,
    pub result: u32,
}

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub stream: Handle,
    pub attributes: *const Attribute,
    pub count: u32,
}

/// `CUlaunchAttribute`
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Attribute {
    pub id: u32,
    pub pad: u32,
    pub value: [u32; 16],
}

type Shared = Option<unsafe extern "C" fn(i32) -> usize>;
type Host = Option<unsafe extern "C" fn(*mut c_void)>;

entry_points! {
    fn cuCtxCreate_v3(context: *mut Handle, affinity: *mut u8, count: i32, flags: u32, device: i32);
    fn cuCtxCreate_v4(context: *mut Handle, params: *const [usize; 3], flags: u32, device: i32);
    fn cuCtxGetApiVersion(context: Handle, version: *mut u32);
    fn cuCtxGetCacheConfig(config: *mut u32);
    fn cuCtxSetCacheConfig(config: u32);
    fn cuCtxGetSharedMemConfig(config: *mut u32);
    fn cuCtxSetSharedMemConfig(config: u32);
    fn cuCtxGetDevice_v2(device: *mut i32, context: Handle);
    fn cuCtxResetPersistingL2Cache();
    fn cuCtxSetFlags(flags: u32);
    fn cuCtxSynchronize_v2(context: Handle);
    fn cuDeviceCanAccessPeer(can: *mut i32, device: i32, peer: i32);
    fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, device: i32);
    fn cuDeviceGetByPCIBusId(device: *mut i32, text: *const c_char);
    fn cuDeviceGetExecAffinitySupport(supported: *mut i32, kind: u32, device: i32);
    fn cuDeviceGetPCIBusId(text: *mut c_char, bytes: i32, device: i32);
    fn cuDeviceGetProperties(properties: *mut [i32; 14], device: i32);
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: i32);
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32);
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32);
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32);
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle);
    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32);
    fn cuFuncGetName(name: *mut *const c_char, function: Handle);
    fn cuFuncGetParamCount(function: Handle, count: *mut usize);
    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: *mut usize, bytes: *mut usize);
    fn cuFuncIsLoaded(state: *mut u32, function: Handle);
    fn cuFuncLoad(function: Handle);
    fn cuFuncSetAttribute(function: Handle, which: u32, value: i32);
    fn cuFuncSetCacheConfig(function: Handle, config: u32);
    fn cuFuncSetSharedMemConfig(function: Handle, config: u32);
    fn cuGetErrorName(code: u32, name: *mut *const c_char);
    fn cuGetErrorString(code: u32, text: *mut *const c_char);
    fn cuGetProcAddress(name: *const c_char, address: *mut Handle, version: i32, flags: u64);
    fn cuGraphAddDependencies_v2(
        graph: Handle, from: *const Handle, to: *const Handle, data: *const Edge, count: usize,
    );
    fn cuGraphAddKernelNode(
        node: *mut Handle, graph: Handle, after: *const Handle, count: usize,
        params: *const KernelParams,
    );
    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: *mut Handle);
    fn cuGraphDebugDotPrint(graph: Handle, path: *const c_char, flags: u32);
    fn cuGraphExecGetFlags(exec: Handle, flags: *mut u64);
    fn cuGraphExecKernelNodeSetParams(exec: Handle, node: Handle, params: *const KernelParams);
    fn cuGraphExecUpdate(exec: Handle, graph: Handle, node: *mut Handle, result: *mut u32);
    fn cuGraphGetEdges_v2(
        graph: Handle, from: *mut Handle, to: *mut Handle, data: *mut Edge, count: *mut usize,
    );
    fn cuGraphInstantiateWithParams(
        exec: *mut Handle, graph: Handle, params: *mut Instantiation,
    );
    fn cuGraphInstantiate_v2(
        exec: *mut Handle, graph: Handle, node: *mut Handle, log: *mut c_char, bytes: usize,
    );
    fn cuGraphKernelNodeGetParams(node: Handle, params: *mut KernelParams);
    fn cuGraphKernelNodeSetParams(node: Handle, params: *const KernelParams);
    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: *const KernelParams);
    fn cuGraphNodeGetDependencies_v2(
        node: Handle, from: *mut Handle, data: *mut Edge, count: *mut usize,
    );
    fn cuGraphNodeGetDependentNodes_v2(
        node: Handle, to: *mut Handle, data: *mut Edge, count: *mut usize,
    );
    fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, enabled: *mut u32);
    fn cuGraphRemoveDependencies_v2(
        graph: Handle, from: *const Handle, to: *const Handle, data: *const Edge, count: usize,
    );
    fn cuGraphUpload(exec: Handle, stream: Handle);
    fn cuKernelGetLibrary(library: *mut Handle, kernel: Handle);
    fn cuKernelGetName(name: *mut *const c_char, kernel: Handle);
    fn cuKernelGetParamCount(kernel: Handle, count: *mut usize);
    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: *mut usize, bytes: *mut usize);
    fn cuKernelSetAttribute(which: u32, value: i32, kernel: Handle, device: i32);
    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, device: i32);
    fn cuLaunchHostFunc_v2(stream: Handle, function: Host, data: *mut c_void, mode: u32);
    fn cuLibraryEnumerateKernels(kernels: *mut Handle, count: u32, library: Handle);
    fn cuLibraryGetKernelCount(count: *mut u32, library: Handle);
    fn cuLibraryLoadFromFile(
        library: *mut Handle, path: *const c_char, jit_options: *const u32, jit_values: *const usize,
        jit_count: u32, options: *const u32, values: *const usize, count: u32,
    );
    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, device: i32);
    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: Location);
    fn cuMemGetDefaultMemPool(pool: *mut Handle, location: *const Location, kind: u32);
    fn cuMemGetMemPool(pool: *mut Handle, location: *const Location, kind: u32);
    fn cuMemPoolGetAccess(flags: *mut u32, pool: Handle, location: *const Location);
    fn cuMemPoolSetAccess(pool: Handle, access: *const Access, count: usize);
    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: i32, stream: Handle);
    fn cuMemPrefetchAsync_v2(
        address: u64, bytes: usize, location: Location, flags: u32, stream: Handle,
    );
    fn cuModuleEnumerateFunctions(functions: *mut Handle, count: u32, module: Handle);
    fn cuModuleGetFunctionCount(count: *mut u32, module: Handle);
    fn cuModuleGetLoadingMode(mode: *mut u32);
    fn cuModuleLoadFatBinary(module: *mut Handle, image: *const c_void);
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut i32, function: Handle, threads: i32, shared: usize,
    );
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut i32, function: Handle, threads: i32, shared: usize, flags: u32,
    );
    fn cuOccupancyMaxActiveClusters(clusters: *mut i32, function: Handle, config: *const Config);
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut i32, block: *mut i32, function: Handle, shared_of: Shared, shared: usize,
        limit: i32,
    );
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut i32, block: *mut i32, function: Handle, shared_of: Shared, shared: usize,
        limit: i32, flags: u32,
    );
    fn cuOccupancyMaxPotentialClusterSize(
        size: *mut i32, function: Handle, config: *const Config,
    );
    fn cuPointerSetAttribute(value: *const c_void, which: u32, address: u64);
    fn cuProfilerStart();
    fn cuProfilerStop();
    fn cuStreamAttachMemAsync(stream: Handle, address: u64, bytes: usize, flags: u32);
    fn cuStreamBeginCaptureToGraph(
        stream: Handle, graph: Handle, nodes: *const Handle, edges: *const Edge, count: usize,
        mode: u32,
    );
    fn cuStreamGetCaptureInfo(stream: Handle, status: *mut u32, id: *mut u64);
    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle,
        nodes: *mut *const Handle, count: *mut usize,
    );
    fn cuStreamGetCaptureInfo_v3(
        stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle,
        nodes: *mut *const Handle, edges: *mut *const Edge, count: *mut usize,
    );
    fn cuStreamGetCtx_v2(stream: Handle, context: *mut Handle, green: *mut Handle);
    fn cuStreamGetDevice(stream: Handle, device: *mut i32);
    fn cuStreamUpdateCaptureDependencies(
        stream: Handle, nodes: *const Handle, count: usize, flags: u32,
    );
    fn cuStreamUpdateCaptureDependencies_v2(
        stream: Handle, nodes: *const Handle, edges: *const Edge, count: usize, flags: u32,
    );
}
