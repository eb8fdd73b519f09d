//! Modules, libraries, functions and their attributes.

use crate::driver::abi::{Handle, In, Out, Text};
use crate::driver::error::*;
use crate::driver::image::{self, Image, Refusal};
use crate::driver::queue::wait;
use crate::driver::settings::FAULTS;
use crate::driver::state::{Fault, Function, Guard, Module, State, driver, lock, say};
use crate::ptx;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::sync::{Mutex, PoisonError};

/// Options of `cuModuleLoadDataEx` that ask for messages: a buffer and its bytes.
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;

/// What `softcudaResources` gave for the modules to come.
static RESOURCES: Mutex<Option<String>> = Mutex::new(None);

impl State {
    /// Loads an image into the current context.
    fn load(&mut self, image: Result<Image, Refusal>) -> Result<Handle, Refusal> {
        let refuse = |code| Refusal {
            code,
            message: String::new(),
        };
        let context = self.current().map_err(refuse)?;
        self.not_while_capturing("cuModuleLoad").map_err(refuse)?;
        let driver = driver().map_err(refuse)?;
        let image = image?;
        let given = RESOURCES.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = given.as_deref().or(image.resources.as_deref());
        let resources = resources.or(driver.settings.resources.as_deref());
        let key = (image.ptx, resources.map(str::to_owned));
        let loaded = match self.known_modules.get(&key).and_then(ptx::Module::again) {
            Some(known) => known,
            None => {
                let (text, resources) = (&key.0, key.1.as_deref());
                let loaded =
                    ptx::Module::load(text, driver.settings.model, &driver.memory, resources);
                let loaded = loaded.map_err(|error| Refusal {
                    code: error.code,
                    message: error.to_string(),
                })?;
                if let Some(again) = loaded.again() {
                    self.known_modules.insert(key, again);
                }
                loaded
            }
        };
        Ok(self.modules.add(Module {
            context,
            loaded,
            functions: BTreeMap::new(),
        }))
    }

    /// Takes a module, its functions and its variables away.
    pub fn unload(&mut self, module: Handle) -> Result {
        let gone = self.modules.remove(module)?;
        for function in gone.functions.into_values() {
            self.functions.remove(function)?;
        }
        gone.loaded.unload(&driver()?.memory);
        Ok(())
    }

    /// The handle of a module's kernel.
    fn function(&mut self, module: Handle, name: &str) -> Result<Handle> {
        let default = driver()?.settings.model.shared_per_block;
        let found = self.modules.get_mut(module)?;
        if let Some(&handle) = found.functions.get(name) {
            return Ok(handle);
        }
        let Some(kernel) = found.loaded.kernel(name).cloned() else {
            let names: Vec<_> = found.loaded.kernels().map(|k| k.name.clone()).collect();
            say!(
                "no kernel `{name}` in the module, which holds: {}",
                names.join(", ")
            );
            return Err(ERROR_NOT_FOUND);
        };
        let handle = self.functions.add(Function {
            context: found.context,
            module,
            dynamic_shared_limit: default.saturating_sub(kernel.static_shared),
            kernel,
            carveout: -1,
        });
        found.functions.insert(name.to_owned(), handle);
        Ok(handle)
    }

    fn variable(&self, module: Handle, name: &str) -> Result<(u64, usize)> {
        let found = self
            .modules
            .get(module)?
            .loaded
            .variable(name)
            .ok_or(ERROR_NOT_FOUND)?;
        Ok((found.address, found.bytes as usize))
    }
}

fn load_into(out: Out<Handle>, image: Result<Image, Refusal>) -> Result<(), Refusal> {
    let loaded = (|| {
        let refuse = |code| Refusal {
            code,
            message: String::new(),
        };
        if out.is_null() {
            return Err(refuse(ERROR_INVALID_VALUE));
        }
        let handle = lock().map_err(refuse)?.load(image)?;
        out.set(handle).map_err(refuse)
    })();
    if let Err(refusal) = &loaded
        && !refusal.message.is_empty()
    {
        say!("the module cannot be loaded: {}", refusal.message);
    }
    loaded
}

fn code(outcome: Result<(), Refusal>) -> Result {
    outcome.map_err(|refusal| refusal.code)
}

/// The image that a program points to.
fn image(address: usize) -> Result<Image, Refusal> {
    let model = driver()
        .map_err(|code| Refusal {
            code,
            message: String::new(),
        })?
        .settings
        .model;
    // SAFETY: the driver interface asks its caller for an image of a module.
    unsafe { image::at_address(address as *const u8, model) }
}

fn file(path: Text) -> Result<Image, Refusal> {
    let refuse = |code| Refusal {
        code,
        message: String::new(),
    };
    let path = path.get().map_err(refuse)?;
    let model = driver().map_err(refuse)?.settings.model;
    let data = std::fs::read(&path).map_err(|error| Refusal {
        code: ERROR_FILE_NOT_FOUND,
        message: format!("{path}: {error}"),
    })?;
    image::read(&data, model)
}

/// Unloads once nothing that is pending may use the module.
fn unload(state: Guard, module: Handle) -> Result {
    let context = state.modules.get(module)?.context;
    let work = state.queue.of_context(context);
    wait(state, &work)?.unload(module)
}

fn attribute(state: &State, which: u32, function: Handle) -> Result<i32> {
    let function = state.functions.get(function)?;
    let kernel = &function.kernel;
    let (major, minor) = driver()?.settings.model.compute_capability;
    let value = match which {
        0 => kernel.max_threads,
        1 => kernel.static_shared,
        2 => kernel.constant_bytes,
        3 => kernel.local_bytes,
        4 => kernel.registers,
        5 => 10 * kernel.target.0 + kernel.target.1,
        6 => 10 * major + minor,
        7 => 0,
        8 => function.dynamic_shared_limit,
        9 => return Ok(function.carveout),
        10..=15 => 0, // clusters
        _ => return Err(ERROR_INVALID_VALUE),
    };
    Ok(value as i32)
}

fn set_attribute(state: &mut State, function: Handle, which: u32, value: i32) -> Result {
    let model = driver()?.settings.model;
    let function = state.functions.get_mut(function)?;
    match which {
        8 => {
            let most = model
                .shared_per_block_optin
                .saturating_sub(function.kernel.static_shared);
            let value = u32::try_from(value).map_err(|_| ERROR_INVALID_VALUE)?;
            if value > most {
                say!(
                    "{}: {value} bytes of dynamic shared memory asked for, {} has {most} beside \
                     the {} static ones",
                    function.kernel.name,
                    model.device_name,
                    function.kernel.static_shared
                );
                return Err(ERROR_INVALID_VALUE);
            }
            function.dynamic_shared_limit = value;
        }
        9 if (-1..=100).contains(&value) => function.carveout = value,
        _ => return Err(ERROR_INVALID_VALUE),
    }
    Ok(())
}

/// Names that `cuFuncGetName` gave out; they live as long as the process, as the kernels of a
/// program are few.
fn kept_name(name: &str) -> Result<*const c_char> {
    static NAMES: Mutex<BTreeMap<String, CString>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if !names.contains_key(name) {
        let kept = CString::new(name).map_err(|_| ERROR_INVALID_VALUE)?;
        names.insert(name.to_owned(), kept);
    }
    names
        .get(name)
        .map(|name| name.as_ptr())
        .ok_or(ERROR_NOT_FOUND)
}

fn param_info(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Result {
    let state = lock()?;
    let kernel = &state.functions.get(function)?.kernel;
    let param = kernel.params.get(index).ok_or(ERROR_INVALID_VALUE)?;
    bytes.set_if_asked(param.bytes as usize);
    offset.set(param.offset as usize)
}

fn list_functions(state: &mut State, module: Handle, out: Out<Handle>, most: usize) -> Result {
    let names: Vec<String> = state
        .modules
        .get(module)?
        .loaded
        .kernels()
        .map(|k| k.name.clone())
        .collect();
    for (i, name) in names.iter().take(most).enumerate() {
        let function = state.function(module, name)?;
        out.at(i).set(function)?;
    }
    Ok(())
}

api! {
    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        code(load_into(module, file(path)))
    }

    fn cuModuleLoadData(module: Out<Handle>, data: usize) {
        code(load_into(module, image(data)))
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, data: usize) {
        code(load_into(module, image(data)))
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>, data: usize, count: u32, options: In<u32>, values: In<usize>,
    ) {
        let options = options.list(count as usize)?;
        let given = values.list(count as usize)?;
        let loaded = load_into(module, image(data));
        let option = |wanted| options.iter().position(|&o| o == wanted);
        if let (Some(buffer), Some(bytes)) = (option(ERROR_LOG_BUFFER), option(ERROR_LOG_BYTES)) {
            let message = loaded.as_ref().err().map_or("", |refusal| refusal.message.as_str());
            let kept = message.len().min(given[bytes].saturating_sub(1));
            let buffer = Out(given[buffer] as *mut u8);
            if given[bytes] > 0 {
                for (i, &byte) in message.as_bytes()[..kept].iter().chain(&[0]).enumerate() {
                    buffer.at(i).set(byte)?;
                }
            }
            // the size that was written is an answer
            Out(values.0.cast_mut()).at(bytes).set(kept)?;
        }
        code(loaded)
    }

    fn cuModuleUnload(module: Handle) {
        let mut state = lock()?;
        state.not_while_capturing("cuModuleUnload")?;
        unload(state, module)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        let mut state = lock()?;
        state.current()?;
        function.set(state.function(module, &name.get()?)?)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let state = lock()?;
        state.current()?;
        let (found, length) = state.variable(module, &name.get()?)?;
        address.set_if_asked(found);
        bytes.set_if_asked(length);
        Ok(())
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        count.set(lock()?.modules.get(module)?.loaded.kernels().count() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, most: u32, module: Handle) {
        list_functions(&mut *lock()?, module, functions, most as usize)
    }

    fn cuLibraryLoadData(
        library: Out<Handle>, data: usize, _jit_options: In<u32>, _jit_values: In<usize>,
        _jit_count: u32, _options: In<u32>, _values: In<usize>, _count: u32,
    ) {
        let mut module = 0;
        code(load_into(Out(&mut module), image(data)))?;
        library.set(lock()?.libraries.add(module))
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>, path: Text, _jit_options: In<u32>, _jit_values: In<usize>,
        _jit_count: u32, _options: In<u32>, _values: In<usize>, _count: u32,
    ) {
        let mut module = 0;
        code(load_into(Out(&mut module), file(path)))?;
        library.set(lock()?.libraries.add(module))
    }

    fn cuLibraryUnload(library: Handle) {
        let mut state = lock()?;
        state.not_while_capturing("cuLibraryUnload")?;
        let module = state.libraries.remove(library)?;
        unload(state, module)
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        let mut state = lock()?;
        let module = *state.libraries.get(library)?;
        kernel.set(state.function(module, &name.get()?)?)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        let state = lock()?;
        let module = *state.libraries.get(library)?;
        count.set(state.modules.get(module)?.loaded.kernels().count() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, most: u32, library: Handle) {
        let mut state = lock()?;
        let module = *state.libraries.get(library)?;
        list_functions(&mut state, module, kernels, most as usize)
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        module.set(*lock()?.libraries.get(library)?)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        let state = lock()?;
        let (found, length) = state.variable(*state.libraries.get(library)?, &name.get()?)?;
        address.set_if_asked(found);
        bytes.set_if_asked(length);
        Ok(())
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        lock()?.functions.get(kernel)?;
        function.set(kernel)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        let state = lock()?;
        let module = state.functions.get(kernel)?.module;
        let found = state.libraries.iter().find(|(_, of)| **of == module);
        library.set(found.ok_or(ERROR_INVALID_HANDLE)?.0)
    }

    fn cuKernelGetAttribute(value: Out<i32>, which: u32, kernel: Handle, _device: i32) {
        value.set(attribute(&*lock()?, which, kernel)?)
    }

    fn cuKernelSetAttribute(which: u32, value: i32, kernel: Handle, _device: i32) {
        set_attribute(&mut *lock()?, kernel, which, value)
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, _device: i32) {
        lock()?.functions.get(kernel)?;
        if config > 3 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) {
        name.set(kept_name(&lock()?.functions.get(kernel)?.kernel.name)?)
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        param_info(kernel, index, offset, bytes)
    }

    fn cuKernelGetParamCount(kernel: Handle, count: Out<usize>) {
        count.set(lock()?.functions.get(kernel)?.kernel.params.len())
    }

    fn cuFuncGetAttribute(value: Out<i32>, which: u32, function: Handle) {
        let state = lock()?;
        state.current()?;
        value.set(attribute(&state, which, function)?)
    }

    fn cuFuncSetAttribute(function: Handle, which: u32, value: i32) {
        let mut state = lock()?;
        state.current()?;
        set_attribute(&mut state, function, which, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        lock()?.functions.get(function)?;
        if config > 3 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        lock()?.functions.get(function)?;
        if config > 2 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        module.set(lock()?.functions.get(function)?.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: Handle) {
        name.set(kept_name(&lock()?.functions.get(function)?.kernel.name)?)
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        param_info(function, index, offset, bytes)
    }

    fn cuFuncGetParamCount(function: Handle, count: Out<usize>) {
        count.set(lock()?.functions.get(function)?.kernel.params.len())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        lock()?.functions.get(function)?;
        state.set(1) // CU_FUNCTION_LOADING_STATE_LOADED
    }

    fn cuFuncLoad(function: Handle) {
        lock()?.functions.get(function).map(|_| ())
    }

    /// `CUresult softcudaLabel(CUdeviceptr, const char *)`: names the allocation that holds an
    /// address; counts and messages use the name.
    fn softcudaLabel(address: u64, name: Text) {
        driver()?.memory.label(address, &name.get()?).map_err(|error| {
            say!("softcudaLabel: {error}");
            ERROR_INVALID_VALUE
        })
    }

    /// `CUresult softcudaResources(const char *)`: what `ptxas -v` printed for the PTX of the
    /// modules to be loaded from now on; null takes it back.
    fn softcudaResources(text: Text) {
        let text = if text.0.is_null() { None } else { Some(text.get()?) };
        *RESOURCES.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(())
    }

    /// `CUresult softcudaFault(const char *, unsigned long long)`: of the calls of a kind from now
    /// on, the one of this number fails; 0 for none.
    fn softcudaFault(kind: Text, number: u64) {
        let kind = kind.get()?;
        let known = FAULTS.into_iter().find(|&known| known == kind);
        let Some(kind) = known else {
            say!("softcudaFault: {kind}: expected {}", FAULTS.join(", "));
            return Err(ERROR_INVALID_VALUE);
        };
        let fault = Fault { seen: 0, chosen: number };
        lock()?.faults.insert(kind, fault);
        Ok(())
    }

    /// `CUresult softcudaReport(const char *)`: writes the report of everything so far.
    fn softcudaReport(path: Text) {
        let path = path.get()?;
        let state = lock()?;
        let work: Vec<u64> = state.queue.all();
        let state = wait(state, &work)?;
        crate::driver::exit::write_report(&state.report, path.as_ref())
    }
}
