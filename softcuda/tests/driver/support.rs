//! Runs the body of a test in a process of its own, which finds softcuda as `libcuda.so`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Tells the child which test it is.
const CHILD: &str = "SOFTCUDA_TEST_CHILD";
/// What the child prints when its body has run to the end.
const DONE: &str = "the body ran to its end";

/// PTX of `kernels.cu` for compute_80 and compute_90.
pub const PTX: &str = include_str!("fixtures/kernels.ptx");
pub const PTX_90: &str = include_str!("fixtures/kernels90.ptx");

/// The library that cargo built with this test.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let deps = test.parent().expect("a folder");
    let library = deps.join("libsoftcuda.so");
    assert!(
        library.is_file(),
        "expected {} beside the test",
        library.display()
    );
    library
}

/// A folder that holds the library under the names that programs look for.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("driver");
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in ["libcuda.so", "libcuda.so.1"] {
            // made under a name of its own and renamed: two test runs may share the folder
            let made = folder.join(format!("{name}.{}", std::process::id()));
            std::os::unix::fs::symlink(library(), &made).expect("a link");
            std::fs::rename(&made, folder.join(name)).expect("a link in its place");
        }
        folder
    })
}

/// What a process printed to standard error, and how it ended.
pub struct Ended {
    pub said: String,
    pub success: bool,
}

impl Ended {
    /// Checks that the process said all of `parts`.
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(
                self.said.contains(part),
                "expected `{part}` in:\n{}",
                self.said
            );
        }
    }
}

/// Runs `command` on softcuda with the variables `env` and no others of softcuda's.
pub fn run(mut command: Command, env: &[(&str, &str)]) -> Ended {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOFTCUDA_")) {
        command.env_remove(name);
    }
    command
        .env("LD_LIBRARY_PATH", folder())
        .envs(env.iter().copied());
    let output = command.output().expect("a process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let success = output.status.success();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    Ended { said, success }
}

/// In the test itself: runs this very test again in a process that loads softcuda, and gives what
/// that process said; it must succeed. In that process: runs `body`, and gives nothing.
///
/// `test` is the path of the test in this crate.
pub fn on_softcuda(test: &str, env: &[(&str, &str)], body: impl FnOnce()) -> Option<Ended> {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        body();
        println!("{DONE}");
        return None;
    }
    let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
    command.args(["--exact", test, "--nocapture"]);
    let env: Vec<_> = env.iter().copied().chain([(CHILD, test)]).collect();
    let ended = run_child(command, &env);
    assert!(
        ended.success && ended.said.contains(DONE),
        "{test}:\n{}",
        ended.said
    );
    Some(ended)
}

fn run_child(command: Command, env: &[(&str, &str)]) -> Ended {
    run(command, env)
}

/// The raw interface, for what cudarc's safe one hides.
pub mod raw {
    use cudarc::driver::sys::{self, CUresult};
    use std::ffi::{CString, c_void};
    use std::ptr::null_mut;

    /// Panics unless a call succeeded.
    #[track_caller]
    pub fn ok(code: CUresult) {
        assert_eq!(code, CUresult::CUDA_SUCCESS);
    }

    /// The answer that a function writes through its first argument.
    #[track_caller]
    pub fn get<T>(call: impl FnOnce(*mut T) -> CUresult) -> T {
        let mut answer = std::mem::MaybeUninit::<T>::zeroed();
        ok(call(answer.as_mut_ptr()));
        // SAFETY: all types here are integers and pointers; the call has succeeded.
        unsafe { answer.assume_init() }
    }

    /// Initialises the driver and makes the primary context current.
    pub fn start() -> sys::CUcontext {
        // SAFETY: the calls are those that every program makes first.
        unsafe {
            ok(sys::cuInit(0));
            let context = get(|c| sys::cuDevicePrimaryCtxRetain(c, 0));
            ok(sys::cuCtxSetCurrent(context));
            context
        }
    }

    /// Loads PTX.
    pub fn module(ptx: &str) -> sys::CUmodule {
        let text = CString::new(ptx).unwrap();
        // SAFETY: the text ends with a zero.
        get(|m| unsafe { sys::cuModuleLoadData(m, text.as_ptr().cast()) })
    }

    /// A function of a module.
    pub fn function(module: sys::CUmodule, name: &str) -> sys::CUfunction {
        let name = CString::new(name).unwrap();
        // SAFETY: the module was loaded before.
        get(|f| unsafe { sys::cuModuleGetFunction(f, module, name.as_ptr()) })
    }

    /// A stream; `blocking`: of those that the legacy stream waits for.
    pub fn stream(blocking: bool) -> sys::CUstream {
        // SAFETY: a context is current.
        get(|s| unsafe { sys::cuStreamCreate(s, u32::from(!blocking)) })
    }

    /// An event.
    pub fn event() -> sys::CUevent {
        // SAFETY: a context is current.
        get(|e| unsafe { sys::cuEventCreate(e, 0) })
    }

    /// Device memory that holds `data`.
    pub fn device(data: &[i32]) -> sys::CUdeviceptr {
        // SAFETY: the slice is as long as it says.
        unsafe {
            let address = get(|a| sys::cuMemAlloc_v2(a, data.len() * 4));
            ok(sys::cuMemcpyHtoD_v2(
                address,
                data.as_ptr().cast(),
                data.len() * 4,
            ));
            address
        }
    }

    /// What device memory holds.
    pub fn read(address: sys::CUdeviceptr, count: usize) -> Vec<i32> {
        let mut data = vec![0; count];
        // SAFETY: the vector is long enough.
        ok(unsafe { sys::cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), address, count * 4) });
        data
    }

    /// Launches blocks of 32 threads.
    pub fn launch(
        function: sys::CUfunction,
        blocks: u32,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> CUresult {
        let arguments = arguments.as_mut_ptr();
        // SAFETY: the tests give the arguments that their kernels take.
        unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                32,
                1,
                1,
                0,
                stream,
                arguments,
                null_mut(),
            )
        }
    }

    /// Launches `add(p, by, 32)`.
    pub fn add(
        function: sys::CUfunction,
        stream: sys::CUstream,
        mut p: sys::CUdeviceptr,
        mut by: i32,
    ) -> CUresult {
        let mut n = 32;
        launch(
            function,
            1,
            stream,
            &mut [pointer(&mut p), pointer(&mut by), pointer(&mut n)],
        )
    }

    /// Launches `twice_plus_one(p, 32)`.
    pub fn twice(
        function: sys::CUfunction,
        stream: sys::CUstream,
        mut p: sys::CUdeviceptr,
    ) -> CUresult {
        let mut n = 32;
        launch(function, 1, stream, &mut [pointer(&mut p), pointer(&mut n)])
    }

    /// A copy of boxes of which only the kinds of memory are set.
    pub fn boxes(from: sys::CUmemorytype, to: sys::CUmemorytype) -> sys::CUDA_MEMCPY3D {
        let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
        let fields = copy.as_mut_ptr();
        // SAFETY: zeros are valid but for the kinds of memory, which are written here.
        unsafe {
            (&raw mut (*fields).srcMemoryType).write(from);
            (&raw mut (*fields).dstMemoryType).write(to);
            copy.assume_init()
        }
    }

    /// An argument of a launch.
    pub fn pointer<T>(value: &mut T) -> *mut c_void {
        std::ptr::from_mut(value).cast()
    }
}
