//! The host side through the whole driver: opening, refusing, loading weights, failing.

use crate::common::{FIXTURES, fixture, fragments, round};
use crate::process::{every_failure, on_softcuda, stub, with_driver};
use gavel::device::DeviceError;
use gavel::device::cuda::layout::{Order, TILE};
use gavel::device::cuda::{Arg, Buffer, Gpu, Matrix, Need, Norm, Weights};
use gavel::model::{Dtype, Linear, Model, Tensor};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use std::path::Path;
use std::sync::Arc;

fn open() -> Arc<Gpu> {
    Gpu::open(0).expect("a device")
}

fn refusal() -> String {
    match Gpu::open(0) {
        Err(error @ DeviceError::NoCuda(_)) => error.to_string(),
        Err(error) => panic!("{error:?}"),
        Ok(gpu) => panic!("opened {:?}", gpu.properties()),
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in: {text}");
    }
}

#[test]
fn a_device_says_what_it_is() {
    let env = [("SOFTCUDA_DEVICE", "a100")];
    on_softcuda("driver::a_device_says_what_it_is", &env, || {
        let gpu = open();
        let found = gpu.properties();
        assert_eq!(found.name, "softcuda A100-SXM4-80GB");
        assert_eq!((found.capability, found.multiprocessors), ((8, 0), 108));
        assert_eq!(found.shared_bytes, 163 << 10);
        assert!(gpu.free_bytes().unwrap() <= found.memory_bytes);
        let no_kernel = gpu.function("pack", "nothing", 0).unwrap_err();
        says(
            &no_kernel.to_string(),
            &["looking up the kernel nothing of pack.cu", "NOT_FOUND"],
        );
        let no_file = gpu.function("nowhere", "nothing", 0).unwrap_err();
        says(&no_file.to_string(), &["nowhere.cu", "no such file"]);
        let too_much = gpu.function("pack", "pack_bf16_rows", 164 << 10);
        says(
            &too_much.unwrap_err().to_string(),
            &["167936 bytes of shared memory for pack_bf16_rows"],
        );
        let Err(error) = Gpu::open(7) else {
            panic!("opened GPU 7");
        };
        says(&error.to_string(), &["no GPU 7", "sees 1"]);
    });
}

#[test]
fn a_driver_that_is_none_is_said() {
    let broken = |folder: &Path| {
        let library = folder.join("broken.so");
        std::fs::write(&library, "not a library").expect("a file");
        library
    };
    let test = "driver::a_driver_that_is_none_is_said";
    with_driver(test, broken, &[], || {
        says(
            &refusal(),
            &["no NVIDIA driver", "libcuda.so.1", "13.0 (580)"],
        );
    });
}

#[test]
fn a_library_without_a_version_is_said() {
    let nothing = |folder: &Path| stub(folder, "int nothing(void) { return 0; }");
    let test = "driver::a_library_without_a_version_is_said";
    with_driver(test, nothing, &[], || {
        says(&refusal(), &["no NVIDIA driver", "cuDriverGetVersion"]);
    });
}

#[test]
fn an_old_driver_is_refused_with_both_versions() {
    let old = |folder: &Path| {
        stub(
            folder,
            "int cuDriverGetVersion(int *version) { *version = 12090; return 0; }",
        )
    };
    let test = "driver::an_old_driver_is_refused_with_both_versions";
    with_driver(test, old, &[], || {
        says(&refusal(), &["too old", "CUDA 12.9", "CUDA 13.0 (580)"]);
    });
}

#[test]
fn a_driver_without_a_device_is_said() {
    let empty = |folder: &Path| {
        stub(
            folder,
            "int cuDriverGetVersion(int *version) { *version = 13000; return 0; }\n\
             int cuInit(unsigned flags) { return 100; }",
        )
    };
    let test = "driver::a_driver_without_a_device_is_said";
    with_driver(test, empty, &[], || {
        says(&refusal(), &["sees no GPU"]);
    });
}

/// An element of a tensor as f16.
fn element(tensor: &Tensor, row: usize, column: usize) -> u16 {
    let size = tensor.dtype.size();
    let bytes = &tensor.bytes()[(row * tensor.cols() + column) * size..][..size];
    match tensor.dtype {
        Dtype::Bf16 => round(bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()),
        Dtype::F16 => u16::from_le_bytes([bytes[0], bytes[1]]),
        Dtype::F32 => round(f32::from_le_bytes(bytes.try_into().unwrap())),
    }
}

#[track_caller]
fn same_matrix(weights: &Weights, matrix: &Matrix, parts: &[&Tensor]) {
    let found: Vec<u16> = weights
        .read(matrix.address, matrix.bytes() / 2)
        .expect("a read");
    let expected = fragments(matrix.tiles(), matrix.pairs(), |at, column| {
        match matrix.order.source(at) {
            Some((part, row)) if column < matrix.columns => element(parts[part], row, column),
            _ => 0,
        }
    });
    assert!(
        found == expected,
        "{} at {:?}",
        parts[0].name(),
        matrix.order
    );
}

#[track_caller]
fn same_bias(weights: &Weights, found: Option<u64>, matrix: &Matrix, parts: &[&Linear]) {
    let has = parts.iter().any(|part| part.bias.is_some());
    assert_eq!(found.is_some(), has);
    let Some(address) = found else { return };
    let found: Vec<f32> = weights
        .read(address, matrix.tiles() * TILE)
        .expect("a read");
    for (at, bias) in found.into_iter().enumerate() {
        let source = matrix.order.source(at);
        let expected = source.and_then(|(part, row)| Some(parts[part].bias.as_ref()?[row]));
        assert_eq!(bias, expected.unwrap_or(0.0));
    }
}

fn same(weights: &Weights, model: &Model) {
    let (c, w) = (&model.config, &model.weights);
    assert_eq!(weights.bytes(), Need::of(model, 16).weights);
    let vector = |address, expected: &[f32]| {
        let found: Vec<f32> = weights.read(address, expected.len()).expect("a read");
        assert_eq!(found, expected);
    };
    let norm = |found: Norm, gain: &[f32]| {
        let gain: Vec<f32> = gain.iter().map(|g| g * found.scale).collect();
        vector(found.gain, &gain);
        let size = (gain.iter().map(|g| g * g).sum::<f32>() / gain.len() as f32).sqrt();
        assert!((0.062..0.126).contains(&size), "gains of {size}");
    };
    assert_eq!(weights.layers.len(), w.layers.len());
    for (found, layer) in weights.layers.iter().zip(&w.layers) {
        let matrices: [(&Matrix, Option<u64>, Vec<&Linear>); 4] = [
            (
                &found.qkv,
                found.qkv_bias,
                vec![&layer.q, &layer.k, &layer.v],
            ),
            (&found.o, found.o_bias, vec![&layer.o]),
            (
                &found.gate_up,
                found.gate_up_bias,
                vec![&layer.gate, &layer.up],
            ),
            (&found.down, found.down_bias, vec![&layer.down]),
        ];
        for (matrix, bias, parts) in matrices {
            let tensors: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
            same_matrix(weights, matrix, &tensors);
            same_bias(weights, bias, matrix, &parts);
        }
        norm(found.input_norm, &layer.input_norm);
        norm(found.post_norm, &layer.post_norm);
        assert_eq!(found.q_norm.is_some(), layer.q_norm.is_some());
        assert_eq!(found.k_norm.is_some(), layer.k_norm.is_some());
        for (address, norm) in [(found.q_norm, &layer.q_norm), (found.k_norm, &layer.k_norm)] {
            if let (Some(address), Some(norm)) = (address, norm) {
                vector(address, norm);
            }
        }
    }
    norm(weights.norm, &w.norm);
    same_matrix(weights, &weights.head, &[&w.head]);
    same_matrix(weights, &weights.embed, &[&w.embed]);
    assert_eq!(weights.head == weights.embed, c.tied);
}

#[test]
fn weights_lie_in_fragment_order() {
    let ended = on_softcuda("driver::weights_lie_in_fragment_order", &[], || {
        for name in FIXTURES {
            let model = Model::open(&fixture(name)).expect("a fixture");
            let gpu = open();
            // in one piece each, and through buffers that hold a few rows of tiles
            for bytes in [8 << 20, 40_000] {
                let weights = Weights::load_through(&gpu, &model, bytes).expect("weights");
                same(&weights, &model);
            }
        }
    });
    if let Some(said) = ended {
        assert!(!said.contains("leak"), "{said}");
    }
}

/// A copy of a fixture whose tensors are of several types.
fn mixed(folder: &Path) -> Model {
    let from = fixture("llama-odd");
    for name in ["config.json", "generation_config.json"] {
        std::fs::copy(from.join(name), folder.join(name)).expect("a copy");
    }
    let bytes = std::fs::read(from.join("model.safetensors")).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut all = Vec::new();
    for (name, view) in tensors.tensors() {
        assert_eq!(view.dtype(), safetensors::Dtype::BF16);
        let values = view.data().as_chunks().0.iter();
        // thirds are in no type whole
        let values = values.map(|&two| bf16::from_le_bytes(two).to_f32() / 3.0);
        let (dtype, data): (_, Vec<u8>) = if name.contains("q_proj") || name.contains("down") {
            let data = values.flat_map(|v| f16::from_f32(v).to_le_bytes());
            (safetensors::Dtype::F16, data.collect())
        } else if name.contains("v_proj") {
            let data = values.flat_map(|v| bf16::from_f32(v).to_le_bytes());
            (safetensors::Dtype::BF16, data.collect())
        } else {
            (
                safetensors::Dtype::F32,
                values.flat_map(f32::to_le_bytes).collect(),
            )
        };
        all.push((name, dtype, view.shape().to_vec(), data));
    }
    let views = all.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.clone(), data).expect("a tensor");
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).expect("a file");
    std::fs::write(folder.join("model.safetensors"), file).expect("a file");
    Model::open(folder).expect("the copy")
}

#[test]
fn every_type_is_rounded_to_f16() {
    on_softcuda("driver::every_type_is_rounded_to_f16", &[], || {
        let folder = tempfile::tempdir().expect("a folder");
        let model = mixed(folder.path());
        let gpu = open();
        for bytes in [8 << 20, 40_000] {
            let weights = Weights::load_through(&gpu, &model, bytes).expect("weights");
            same(&weights, &model);
        }
    });
}

#[test]
fn widths_that_the_kernels_do_not_take_are_refused() {
    let test = "driver::widths_that_the_kernels_do_not_take_are_refused";
    on_softcuda(test, &[], || {
        let mut model = Model::open(&fixture("llama-odd")).expect("a fixture");
        model.config.head_dim = 24;
        let Err(error) = Weights::load(&open(), &model) else {
            panic!("loaded heads of 24");
        };
        says(
            &error.to_string(),
            &["head_dim 24", "multiple of 16", "llama-odd"],
        );
    });
}

#[test]
fn every_failure_while_loading_is_said_and_leaves_nothing() {
    let test = "driver::every_failure_while_loading_is_said_and_leaves_nothing";
    let said = on_softcuda(test, &[], || {
        let model = Model::open(&fixture("llama-mha")).expect("a fixture");
        let load = || Weights::load_through(&Gpu::open(0)?, &model, 60_000);
        let error = |kind: &str, error: &str| {
            let code = match kind {
                "alloc" => "CUDA_ERROR_OUT_OF_MEMORY",
                "copy" => "CUDA_ERROR_UNKNOWN",
                _ => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            };
            says(error, &[code]);
            let names = [
                "loading model.",
                "loading lm_head",
                "allocating",
                "to vectors",
            ];
            assert!(names.iter().any(|name| error.contains(name)), "{error}");
        };
        let [allocations, copies, launches] =
            every_failure(load, error, |_, weights| same(&weights, &model));
        println!("{allocations} allocations, {copies} copies, {launches} launches");
        // weights, vectors, embedding, staging; a matrix each
        assert!(allocations >= 4 && copies >= 10 && launches >= 10);
    });
    if let Some(said) = said {
        assert!(!said.contains("leak"), "{said}");
    }
}

#[test]
fn a_broken_context_ends_with_its_device() {
    let test = "driver::a_broken_context_ends_with_its_device";
    let ended = on_softcuda(test, &[], || {
        {
            let gpu = open();
            let buffer = Buffer::of(&gpu, "numbers", &[1.0f32; 16]).expect("memory");
            let pack = gpu.function("pack", "pack_bf16_rows", 0).expect("a kernel");
            let args = [
                Arg::Ptr(buffer.address()),
                Arg::Ptr(64),
                Arg::I32(1),
                Arg::I32(1),
            ];
            // SAFETY: softcuda stops at the address, which is none.
            unsafe { gpu.launch(pack, [1, 1, 1], 256, 0, &args) }.expect("a launch");
            let error = gpu.wait(|| "packing to nowhere".to_owned()).unwrap_err();
            let error = error.to_string();
            says(
                &error,
                &[
                    "packing to nowhere",
                    "cuStreamSynchronize",
                    "ILLEGAL_ADDRESS",
                ],
            );
            let error = buffer.read::<f32>(0, 1).unwrap_err().to_string();
            says(&error, &["copying 4 bytes from numbers", "ILLEGAL_ADDRESS"]);
        }
        let gpu = open();
        let buffer = Buffer::of(&gpu, "numbers", &[1.0f32; 16]).expect("memory");
        assert_eq!(buffer.read::<f32>(4, 2).expect("a read"), [1.0; 2]);
        let zero = Buffer::zeroed(&gpu, "zeros", 12).expect("memory");
        assert_eq!(zero.read::<u8>(0, 12).expect("a read"), [0; 12]);
        let error = zero.read::<u8>(8, 5).unwrap_err().to_string();
        says(&error, &["5 bytes at 8", "expected to end at 12"]);
    });
    if let Some(said) = ended {
        // what a broken context holds cannot be freed, and goes with it
        assert!(!said.contains("leak"), "{said}");
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
    let model = Model::open(&fixture("llama3-rope")).expect("a fixture");
    let need = Need::of(&model, 1000);
    let c = &model.config;
    // 1008 slots
    assert_eq!(need.kv, c.layers * 2 * c.kv_heads * 1008 * c.head_dim * 2);
    let head = Order::Plain { rows: c.vocab_size };
    assert!(need.weights > head.tiles() * TILE * c.hidden_size * 2);
    assert!(need.check(need.total(), 1000).is_ok());
    let error = need.check(need.total() - 1, 1000).unwrap_err();
    assert!(matches!(error, DeviceError::Memory { context: 1000, .. }));
}
