//! The driver: found, checked, opened; its calls, with errors that say what they were for.

use super::super::DeviceError;
use super::image::{IMAGES, Image};
use cudarc::driver::sys::{self, CUresult};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

/// Oldest version of the driver's interface, as `cuDriverGetVersion` counts: CUDA 13.0, which the
/// drivers of the 580 series are the first to have.
pub const OLDEST_DRIVER: i32 = 13000;

/// The instruction set that the kernels are written for.
pub(super) const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// Architectures from which on a launch may begin before the one ahead of it is over.
const OVERLAPPING: i32 = 90;

/// Dynamic shared memory that a block gets without asking.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

type Label = unsafe extern "C" fn(u64, *const c_char) -> u32;

/// The driver's library, which stays loaded.
pub(super) struct Driver {
    /// `softcudaLabel`, which NVIDIA's driver does not have.
    label: Option<Label>,
    _library: Library,
}

impl Driver {
    /// Finds the driver and asks for its version, before cudarc is touched: cudarc panics where the
    /// library or one of its symbols is missing.
    pub fn find() -> Result<&'static Driver, DeviceError> {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        if let Some(driver) = DRIVER.get() {
            return Ok(driver);
        }
        if IMAGES.is_empty() {
            return Err(DeviceError::NoCuda(
                "this gavel was built without CUDA, as there was no nvcc: run \
                 `export CUDA_HOME=$(scripts/get_nvcc.py)` in its sources and build again"
                    .to_owned(),
            ));
        }
        // as cudarc looks for it
        let names = ["libcuda.so", "libcuda.so.1"];
        // SAFETY: the library is NVIDIA's driver, whose initialisation asks nothing of us.
        let opened = names.map(|name| unsafe { Library::new(name) });
        let [first, second] = opened;
        let library = first.or(second).map_err(|error| {
            DeviceError::NoCuda(format!(
                "no NVIDIA driver: found neither libcuda.so nor libcuda.so.1, expected a driver \
                 for CUDA {} (580) or newer ({error})",
                dotted(OLDEST_DRIVER)
            ))
        })?;
        let version = version(&library)?;
        if version < OLDEST_DRIVER {
            return Err(DeviceError::NoCuda(format!(
                "the NVIDIA driver is too old: found one for CUDA {}, expected CUDA {} (580) or \
                 newer",
                dotted(version),
                dotted(OLDEST_DRIVER)
            )));
        }
        // SAFETY: softcuda.h declares it so.
        let label = unsafe { library.get::<Label>(b"softcudaLabel\0") };
        let label = label.ok().map(|label| *label);
        Ok(DRIVER.get_or_init(|| Driver {
            label,
            _library: library,
        }))
    }
}

/// 13000 is 13.0.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn version(library: &Library) -> Result<i32, DeviceError> {
    type GetVersion = unsafe extern "C" fn(*mut i32) -> i32;
    // SAFETY: cuda.h declares it so, in every version.
    let get = unsafe { library.get::<GetVersion>(b"cuDriverGetVersion\0") };
    let get = get.map_err(|error| {
        DeviceError::NoCuda(format!(
            "libcuda.so is no NVIDIA driver: it lacks cuDriverGetVersion ({error})"
        ))
    })?;
    let mut version = 0;
    // SAFETY: the function writes one integer.
    match unsafe { get(&mut version) } {
        0 => Ok(version),
        code => Err(DeviceError::NoCuda(format!(
            "the NVIDIA driver does not say its version: cuDriverGetVersion failed ({code})"
        ))),
    }
}

/// The error of a call that failed; `doing` is asked only then.
pub(super) fn check(
    code: CUresult,
    call: &'static str,
    doing: impl FnOnce() -> String,
) -> Result<(), DeviceError> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ => Err(DeviceError::Cuda {
            doing: doing(),
            call,
            said: said(code),
        }),
    }
}

/// Name, number and text of an error.
fn said(code: CUresult) -> String {
    let ask = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the driver gives a string of its own that lives as long as it does, or null.
        unsafe {
            match get(code, &mut text) {
                CUresult::CUDA_SUCCESS if !text.is_null() => {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
                _ => "unknown".to_owned(),
            }
        }
    };
    format!(
        "{} ({}): {}",
        ask(sys::cuGetErrorName),
        code as u32,
        ask(sys::cuGetErrorString)
    )
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its number among the devices of this process.
    pub ordinal: usize,
    /// The name that the driver gives it.
    pub name: String,
    /// Major and minor compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that a block may ask for, in bytes.
    pub shared_bytes: usize,
    /// Second-level cache in bytes.
    pub l2_bytes: usize,
    /// Its memory in bytes.
    pub memory_bytes: usize,
}

/// A device with its primary context, a stream of its own, and the kernels.
///
/// Every method makes the context current for its thread. A context that an error has broken ends
/// with the last `Gpu` that uses it, and the next one is whole.
pub struct Gpu {
    properties: Properties,
    driver: &'static Driver,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, which
// every method sees to.
unsafe impl Send for Gpu {}
// SAFETY: the driver locks what its calls share, and no field changes between `open` and `drop`.
unsafe impl Sync for Gpu {}

/// A kernel.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    handle: sys::CUfunction,
    name: &'static str,
    /// Whether its code waits for what was launched before it.
    waits: bool,
}

// SAFETY: a handle that the driver takes from every thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg<'a> {
    /// A struct, byte by byte.
    Bytes(&'a [u8]),
    /// An address in device memory.
    Ptr(u64),
    /// An `int`.
    I32(i32),
    /// A `float`.
    F32(f32),
}

impl Gpu {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`] where there is no driver, an older one than [`OLDEST_DRIVER`], no such
    /// device or one of a compute capability below 8.0; [`DeviceError::Cuda`] where a call failed.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>, DeviceError> {
        let driver = Driver::find()?;
        // SAFETY: the calls get places of the types that they write to.
        unsafe {
            let code = sys::cuInit(0);
            if code == CUresult::CUDA_ERROR_NO_DEVICE {
                return Err(no_gpu(0, ordinal));
            }
            check(code, "cuInit", || "starting the CUDA driver".to_owned())?;
            let mut count = 0;
            check(
                sys::cuDeviceGetCount(&mut count),
                "cuDeviceGetCount",
                || "looking for GPUs".to_owned(),
            )?;
            let device = i32::try_from(ordinal).unwrap_or(i32::MAX);
            if device >= count {
                return Err(no_gpu(count, ordinal));
            }
            let properties = properties(ordinal, device)?;
            if properties.capability < OLDEST_CAPABILITY {
                let (major, minor) = properties.capability;
                return Err(DeviceError::NoCuda(format!(
                    "{} has compute capability {major}.{minor}, expected 8.0 or newer",
                    properties.name
                )));
            }
            let doing = || format!("opening {}", properties.name);
            let mut context = null_mut();
            check(
                sys::cuDevicePrimaryCtxRetain(&mut context, device),
                "cuDevicePrimaryCtxRetain",
                doing,
            )?;
            // from here on dropping it gives back what there is
            let mut gpu = Gpu {
                properties: properties.clone(),
                driver,
                device,
                context,
                stream: null_mut(),
                modules: Vec::new(),
            };
            gpu.bind(doing)?;
            let not_blocking = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(
                sys::cuStreamCreate(&mut gpu.stream, not_blocking),
                "cuStreamCreate",
                doing,
            )?;
            for image in IMAGES {
                gpu.modules.push(load(image)?);
            }
            Ok(Arc::new(gpu))
        }
    }

    /// What the device is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The stream of all its work: a `CUstream`.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Makes the context current for this thread.
    pub(super) fn bind(&self, doing: impl FnOnce() -> String) -> Result<(), DeviceError> {
        // SAFETY: the context is retained until this is dropped.
        let code = unsafe { sys::cuCtxSetCurrent(self.context) };
        check(code, "cuCtxSetCurrent", doing)
    }

    /// Bytes of device memory that are free.
    pub fn free_bytes(&self) -> Result<usize, DeviceError> {
        let doing = || "asking for free memory".to_owned();
        self.bind(doing)?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are places for a size.
        let code = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        check(code, "cuMemGetInfo", doing)?;
        Ok(free)
    }

    /// The kernel `name` of kernels/`file`.cu, whose blocks may take `shared_bytes` of dynamic
    /// shared memory.
    ///
    /// # Errors
    /// [`DeviceError::Cuda`] where there is no such file or kernel, or the device has less shared
    /// memory.
    pub fn function(
        &self,
        file: &str,
        name: &'static str,
        shared_bytes: usize,
    ) -> Result<Function, DeviceError> {
        let doing = || format!("looking up the kernel {name} of {file}.cu");
        self.bind(doing)?;
        let index = IMAGES.iter().position(|image| image.name == file);
        let module = index.and_then(|index| self.modules.get(index));
        let module = *module.ok_or_else(|| DeviceError::Cuda {
            doing: doing(),
            call: "cuModuleGetFunction",
            said: "this build has no such file".to_owned(),
        })?;
        // SAFETY: loaded by `open` in the context that is current.
        unsafe { function_of(module, file, name, shared_bytes) }
    }

    /// How many blocks of `block` threads with `shared_bytes` of dynamic shared memory a
    /// multiprocessor holds at a time.
    pub fn resident_blocks(
        &self,
        function: Function,
        block: usize,
        shared_bytes: usize,
    ) -> Result<usize, DeviceError> {
        let doing = || format!("asking how many blocks of {} fit", function.name);
        self.bind(doing)?;
        let threads = i32::try_from(block).unwrap_or(i32::MAX);
        let mut blocks = 0;
        // SAFETY: a place for an integer, and a kernel of this context.
        let code = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                function.handle,
                threads,
                shared_bytes,
            )
        };
        check(code, "cuOccupancyMaxActiveBlocksPerMultiprocessor", doing)?;
        Ok(usize::try_from(blocks).unwrap_or(0))
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters, in number, type and size, and the memory that they name is as
    /// large as the kernel expects and lives until the kernel is done, every time that it runs.
    pub unsafe fn launch(
        &self,
        function: Function,
        grid: [usize; 3],
        block: usize,
        shared_bytes: usize,
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.launch_as(function, grid, block, shared_bytes, args, &mut []) }
    }

    /// Enqueues a kernel that calls `after_previous` of ptx.cuh first: where it was compiled for an
    /// architecture that can (9.0 and newer), it may begin before what was enqueued before it is over,
    /// by programmatic dependent launch.
    ///
    /// # Safety
    /// As of [`Gpu::launch`].
    pub unsafe fn launch_overlapping(
        &self,
        function: Function,
        grid: [usize; 3],
        block: usize,
        shared_bytes: usize,
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        let mut attribute = attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        );
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let attributes = &mut [attribute][..usize::from(function.waits)];
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.launch_as(function, grid, block, shared_bytes, args, attributes) }
    }

    /// Enqueues a kernel whose blocks all run at the same time, and so may wait for each other:
    /// a cooperative launch. At most [`Gpu::resident_blocks`] a multiprocessor.
    ///
    /// # Safety
    /// As of [`Gpu::launch`].
    pub unsafe fn launch_together(
        &self,
        function: Function,
        grid: [usize; 3],
        block: usize,
        shared_bytes: usize,
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller vouches for the arguments.
        unsafe {
            self.launch_as(
                function,
                grid,
                block,
                shared_bytes,
                args,
                &mut [cooperative()],
            )
        }
    }

    /// # Safety
    /// As of [`Gpu::launch`].
    unsafe fn launch_as(
        &self,
        function: Function,
        grid: [usize; 3],
        block: usize,
        shared_bytes: usize,
        args: &[Arg<'_>],
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> Result<(), DeviceError> {
        self.bind(|| format!("launching {}", function.name))?;
        // SAFETY: the caller vouches for the arguments; the stream and the kernel are this context's.
        unsafe {
            launch_on(
                self.stream,
                function,
                grid,
                block,
                shared_bytes,
                args,
                attributes,
            )
        }
    }

    /// Waits for all that was enqueued; `doing` says what that was.
    pub fn wait(&self, doing: impl Fn() -> String) -> Result<(), DeviceError> {
        self.bind(&doing)?;
        // SAFETY: the stream lives as long as this.
        let code = unsafe { sys::cuStreamSynchronize(self.stream) };
        check(code, "cuStreamSynchronize", doing)
    }

    /// Tells softcuda what an allocation is for; NVIDIA's driver does not ask.
    pub(super) fn label(&self, address: u64, name: &str) {
        if let (Some(label), Ok(name)) = (self.driver.label, CString::new(name)) {
            // SAFETY: softcuda copies the name. A label that is not taken changes nothing.
            unsafe { label(address, name.as_ptr()) };
        }
    }
}

/// Makes a launch cooperative.
pub(super) fn cooperative() -> sys::CUlaunchAttribute {
    let mut attribute = attribute(sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
    attribute.value.cooperative = 1;
    attribute
}

/// Loads the kernels of a file into the context that is current.
pub(super) fn load(image: &Image) -> Result<sys::CUmodule, DeviceError> {
    let mut module = null_mut();
    let data = image.fatbin.0.as_ptr().cast();
    // SAFETY: a place for a module, and a whole fat binary that lives as long as the program.
    let code = unsafe { sys::cuModuleLoadData(&mut module, data) };
    check(code, "cuModuleLoadData", || {
        format!("loading the kernels of {}.cu", image.name)
    })?;
    Ok(module)
}

/// The kernel `name` of a module, see [`Gpu::function`].
///
/// # Safety
/// The module is loaded, in the context that is current.
pub(super) unsafe fn function_of(
    module: sys::CUmodule,
    file: &str,
    name: &'static str,
    shared_bytes: usize,
) -> Result<Function, DeviceError> {
    let doing = || format!("looking up the kernel {name} of {file}.cu");
    let text = CString::new(name).map_err(|_| DeviceError::Cuda {
        doing: doing(),
        call: "cuModuleGetFunction",
        said: "the name holds a zero byte".to_owned(),
    })?;
    let mut handle = null_mut();
    // SAFETY: the caller vouches for the module; the name ends with a zero.
    let code = unsafe { sys::cuModuleGetFunction(&mut handle, module, text.as_ptr()) };
    check(code, "cuModuleGetFunction", doing)?;
    if shared_bytes > SHARED_WITHOUT_ASKING {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
        // SAFETY: the function was found above.
        let code = unsafe { sys::cuFuncSetAttribute(handle, attribute, bytes) };
        check(code, "cuFuncSetAttribute", || {
            format!("asking for {shared_bytes} bytes of shared memory for {name}")
        })?;
    }
    // what it was compiled for: __CUDA_ARCH__ in ptx.cuh
    let version = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
    let mut compiled_for = 0;
    // SAFETY: a place for an integer; the function was found above.
    let code = unsafe { sys::cuFuncGetAttribute(&mut compiled_for, version, handle) };
    check(code, "cuFuncGetAttribute", doing)?;
    Ok(Function {
        handle,
        name,
        waits: compiled_for >= OVERLAPPING,
    })
}

/// Enqueues a kernel on a stream of the context that is current.
///
/// # Safety
/// As of [`Gpu::launch`]; stream and kernel belong to the context that is current.
pub(super) unsafe fn launch_on(
    stream: sys::CUstream,
    function: Function,
    grid: [usize; 3],
    block: usize,
    shared_bytes: usize,
    args: &[Arg<'_>],
    attributes: &mut [sys::CUlaunchAttribute],
) -> Result<(), DeviceError> {
    let doing = || format!("launching {} on {grid:?} blocks of {block}", function.name);
    // little-endian: the lower bytes of a word are the argument
    let mut words: Vec<u64> = args
        .iter()
        .map(|arg| match *arg {
            Arg::Bytes(_) => 0,
            Arg::Ptr(address) => address,
            Arg::I32(value) => u64::from(value as u32),
            Arg::F32(value) => u64::from(value.to_bits()),
        })
        .collect();
    let mut pointers: Vec<*mut c_void> = args
        .iter()
        .zip(&mut words)
        .map(|(arg, word)| match *arg {
            // the driver reads arguments and does not write them
            Arg::Bytes(bytes) => bytes.as_ptr().cast_mut().cast(),
            _ => std::ptr::from_mut(word).cast(),
        })
        .collect();
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let config = sys::CUlaunchConfig {
        gridDimX: size(grid[0]),
        gridDimY: size(grid[1]),
        gridDimZ: size(grid[2]),
        blockDimX: size(block),
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: size(shared_bytes),
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: size(attributes.len()),
    };
    // SAFETY: the caller vouches for the arguments; the driver copies them before it returns.
    let code = unsafe {
        sys::cuLaunchKernelEx(&config, function.handle, pointers.as_mut_ptr(), null_mut())
    };
    check(code, "cuLaunchKernelEx", doing)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Errors have nobody to go to, and a broken context answers every call with its error:
        // what it holds ends with it.
        // SAFETY: the handles are those that `open` got, given back once.
        unsafe {
            if sys::cuCtxSetCurrent(self.context) == CUresult::CUDA_SUCCESS {
                for &module in &self.modules {
                    let _ = sys::cuModuleUnload(module);
                }
                if !self.stream.is_null() {
                    let _ = sys::cuStreamDestroy_v2(self.stream);
                }
                let _ = sys::cuCtxSetCurrent(null_mut());
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// An attribute of a launch that has no value yet.
fn attribute(id: sys::CUlaunchAttributeID) -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { pad: [0; 64] },
    }
}

fn no_gpu(count: i32, ordinal: usize) -> DeviceError {
    DeviceError::NoCuda(match count {
        0 => "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES set?)".to_owned(),
        _ => format!("no GPU {ordinal}: the NVIDIA driver sees {count}, numbered from 0"),
    })
}

/// Asks a device what it is.
///
/// # Safety
/// The driver is initialised and has this device.
pub(super) unsafe fn properties(
    ordinal: usize,
    device: sys::CUdevice,
) -> Result<Properties, DeviceError> {
    use sys::CUdevice_attribute as A;
    let doing = || format!("asking what GPU {ordinal} is");
    let ask = |attribute| {
        let mut value = 0;
        // SAFETY: a place for an integer, and a device that exists.
        let code = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) };
        check(code, "cuDeviceGetAttribute", doing)?;
        Ok::<i32, DeviceError>(value)
    };
    let size = |attribute| ask(attribute).map(|value| usize::try_from(value).unwrap_or(0));
    let mut name = [0u8; 256];
    let mut memory_bytes = 0;
    // SAFETY: the buffer is as long as it says; the other is a place for a size.
    unsafe {
        let code = sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device);
        check(code, "cuDeviceGetName", doing)?;
        let code = sys::cuDeviceTotalMem_v2(&mut memory_bytes, device);
        check(code, "cuDeviceTotalMem", doing)?;
    }
    let name = CStr::from_bytes_until_nul(&name).unwrap_or(c"unnamed");
    Ok(Properties {
        ordinal,
        name: name.to_string_lossy().into_owned(),
        capability: (
            ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: size(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: size(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: size(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        memory_bytes,
    })
}
