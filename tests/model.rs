//! Checkpoints as Hugging Face writes them open, and say what they are.

use std::path::{Path, PathBuf};

use gavel::model::{Architecture, ChatTemplate, Message, Model, RopeScaling, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/demo")
        .join(name)
}

#[test]
fn every_fixture_opens() {
    for name in [
        "llama-mha",
        "llama-odd",
        "llama3-rope",
        "qwen2-bias",
        "qwen3-qknorm",
    ] {
        let model = Model::open(&fixture(name)).unwrap();
        assert_eq!(model.weights.layers.len(), model.config.layers, "{name}");
        assert_eq!(model.fingerprint().len(), 64, "{name}");
    }
}

#[test]
fn the_demo_pair_opens_and_shares_its_vocabulary() {
    let (target, draft) = (demo("target"), demo("draft"));
    assert_eq!(
        Model::open(&target).unwrap().config.architecture,
        Architecture::Llama
    );
    assert_eq!(
        Model::open(&draft).unwrap().config.architecture,
        Architecture::Qwen2
    );
    let tokenizer = Tokenizer::open(&target).unwrap();
    tokenizer
        .agrees_with(&Tokenizer::open(&draft).unwrap())
        .unwrap();
    assert_eq!(tokenizer.special_ids(), [0, 1, 2]);
    let template = ChatTemplate::open(&target).unwrap().unwrap();
    let text = template
        .render(&[Message::new("user", "What is 2 + 3?")], true)
        .unwrap();
    assert_eq!(text, "<|begin|>Q: What is 2 + 3?\nA:");
    let ids = tokenizer.encode(&text, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), text);
    let _ = RopeScaling::None;
}
