//! No text and no image makes the loader panic: files of nvcc with words, lines and bytes that
//! were moved, lost, repeated or changed. (`fuzz/fuzz_targets/ptx.rs` goes further.)

mod common;

use softcuda::device::Model;
use softcuda::image;
use softcuda::memory::Memory;
use softcuda::ptx::Module;
use std::time::Duration;

const FILES: [&[u8]; 5] = [
    include_bytes!("driver/fixtures/kernels.ptx"),
    include_bytes!("driver/fixtures/kernels90.ptx"),
    include_bytes!("driver/fixtures/plain.fatbin"),
    include_bytes!("driver/fixtures/lz4.fatbin"),
    include_bytes!("driver/fixtures/zstd.fatbin"),
];

/// A small generator of choices, the same in every run.
struct Choices(u64);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

fn load(data: &[u8]) -> bool {
    let model = Model::named("h100").expect("a model");
    let Ok(image) = image::read(data, model) else {
        return false;
    };
    let memory = Memory::new(1 << 24);
    let loaded = Module::load(&image.ptx, model, &memory, image.resources.as_deref());
    match loaded {
        Ok(module) => {
            module.unload(&memory);
            true
        }
        Err(error) => {
            let lines = image.ptx.lines().count();
            assert!(error.line as usize <= lines + 1, "{error} of {lines}");
            false
        }
    }
}

#[test]
fn damaged_images_are_refused() {
    let mut choices = Choices(1);
    for file in FILES {
        assert!(load(file));
        for cut in 0..file.len().min(400) {
            load(&file[..cut]);
        }
        for _ in 0..400 {
            let mut data = file.to_vec();
            for _ in 0..=choices.below(4) {
                // headers more often than what is behind them
                let most = [data.len(), 200][choices.below(2)].min(data.len());
                let at = choices.below(most);
                data[at] = [0, 1, 0x7f, 0x80, 0xff, choices.below(256) as u8][choices.below(6)];
            }
            load(&data);
        }
    }
}

#[test]
fn shuffled_words_are_refused_or_loaded() {
    let text = std::str::from_utf8(FILES[1]).expect("text");
    // words, and what stands between them
    let words: Vec<&str> = text
        .split_inclusive(|c: char| !c.is_ascii_alphanumeric() && !"%._$".contains(c))
        .collect();
    let odd = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ";",
        "{}",
        "-",
        "0",
        "-1",
        "9223372036854775807",
        "4294967295",
        "0f7F800000",
        "%",
        ".",
        "..",
        "@",
        "@!",
        "<1000000>",
        "|",
        "L:",
        "mbarrier",
        "bra",
        "call",
        ".reg",
        ".reg.b64 %",
        ".align 3",
        ".align 0",
        ".v4",
        ".param",
        "[1099511627776]",
        "/*",
        "\"",
        "add.cc.u64",
        "brx.idx",
        ".attribute(",
        ".maxntid 99999999999,9999999999",
        "mov.b64 {},",
    ];
    let mut choices = Choices(2);
    let mut loaded = 0;
    for _ in 0..4000 {
        let mut list = words.clone();
        for _ in 0..=choices.below(3) {
            let (at, other) = (choices.below(list.len()), choices.below(list.len()));
            match choices.below(5) {
                0 => {
                    list.remove(at);
                }
                1 => list.insert(at, list[other]),
                2 => list.swap(at, other),
                3 => list[at] = list[other],
                _ => list.insert(at, odd[choices.below(odd.len())]),
            }
        }
        loaded += usize::from(load(list.concat().as_bytes()));
    }
    // comments and declarations may change without harm
    assert!(loaded > 10, "{loaded}");
}

/// Time that this thread had on a core: what other programs do beside it does not count.
fn time_of_thread() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux's statistics");
    let nanoseconds = stat.split(' ').next().expect("a number");
    Duration::from_nanos(nanoseconds.parse().expect("a number"))
}

#[test]
fn what_would_take_for_ever_is_refused() {
    let kernel = |body: &str| {
        format!(
            ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{{\n{body}\nret;\n}}\n"
        )
    };
    let deep = 100_000;
    let mut calls = String::new();
    for i in 0..60 {
        let twice = format!("call.uni f{0};\ncall.uni f{0};\n", i + 1);
        calls = format!(".func f{i}()\n{{\n{twice}ret;\n}}\n{calls}");
    }
    let mut chain = String::new();
    for i in 0..500 {
        chain += &format!(".func g{i}()\n{{\ncall.uni g{};\nret;\n}}\n", i + 1);
    }
    let header = ".version 9.0\n.target sm_90\n.address_size 64\n";
    for text in [
        kernel(&"{".repeat(deep)),
        kernel(&format!("mov.b32 %x, {}", "{".repeat(deep))),
        format!("{header}.global .b32 x[4] = {};\n", "{".repeat(deep)),
        kernel(&".reg .b32 %r<1000000>;\n".repeat(1000)),
        format!(
            "{header}{calls}.func f60()\n{{\nret;\n}}\n.visible .entry k()\n{{\ncall.uni f0;\nret;\n}}\n"
        ),
        format!(
            "{header}{chain}.func g500()\n{{\nret;\n}}\n.visible .entry k()\n{{\ncall.uni g0;\nret;\n}}\n"
        ),
        kernel(".local .b8 l[9000000000000];"),
        kernel(".shared .b8 s[9000000000000];"),
        format!("{header}.global .b8 x[900000000000];\n"),
        format!("{header}.global .attribute(.managed .b8 x;\n"),
    ] {
        let start = time_of_thread();
        assert!(!load(text.as_bytes()), "{}", &text[..200.min(text.len())]);
        assert!(
            (time_of_thread() - start).as_secs() < 20,
            "{}",
            &text[..200.min(text.len())]
        );
    }
}
