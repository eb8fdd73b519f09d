//! Tokenizer and chat template: text in, text out, never half a character.

use std::path::{Path, PathBuf};

use gavel::model::{ChatTemplate, Message, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::json;

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/demo")
        .join(name)
}

/// A tokenizer in the manner of Llama 2: `▁` for spaces, a token per byte where nothing else fits.
fn byte_fallback() -> (tempfile::TempDir, Tokenizer) {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for token in ["▁", "a", "b", "é", "▁a", "日"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": [["▁", "a"]]},
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    (folder, tokenizer)
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut parts: Vec<String> = ids.iter().filter_map(|&id| stream.push(id)).collect();
    parts.push(stream.finish());
    parts
}

#[test]
fn the_demo_pair_shares_its_vocabulary() {
    let target = Tokenizer::open(&demo("target")).unwrap();
    let draft = Tokenizer::open(&demo("draft")).unwrap();
    target.agrees_with(&draft).unwrap();
    assert_eq!(target.special_ids(), [0, 1, 2]);
    assert!(target.is_special(2) && !target.is_special(3));
    assert_eq!(target.id("<|end|>"), Some(2));
    assert_eq!(target.token(3).as_deref(), Some("!"));
    assert_eq!(target.token(1_000_000), None);
}

/// Prompt ids and answers of `tests/fixtures/smollm2-135m.json`, by transformers.
#[test]
fn smollm2_prompts_are_encoded_and_answers_streamed_as_by_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = root.join("models/smollm2-135m");
    assert!(
        dir.join("tokenizer.json").exists(),
        "{} is missing: run `make smollm2`, which fetches it",
        dir.display()
    );
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let template = ChatTemplate::open(&dir).unwrap().unwrap();
    let cases = std::fs::read(root.join("tests/fixtures/smollm2-135m.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    for case in &cases {
        let ids = |field: &str| serde_json::from_value::<Vec<u32>>(case[field].clone()).unwrap();
        let prompt = [Message::new("user", case["prompt"].as_str().unwrap())];
        let text = template.render(&prompt, true).unwrap();
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids("prompt_ids"));
        let answer = streamed(&tokenizer, &ids("greedy_ids")).concat();
        assert_eq!(answer, case["greedy_text"].as_str().unwrap());
    }
    assert!(cases.len() > 3);
}

#[test]
fn text_survives_encoding_and_decoding() {
    let (_folder, fallback) = byte_fallback();
    let byte_level = Tokenizer::open(&demo("target")).unwrap();
    for text in ["Tom has 3 apples.", "naïve 日本語 🦀👩‍👩‍👧", " a  b\n\té", ""]
    {
        for tokenizer in [&byte_level, &fallback] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true), text);
        }
    }
}

#[test]
fn special_tokens_are_added_only_when_asked_for() {
    let (_folder, tokenizer) = byte_fallback();
    let bare = tokenizer.encode("a b é", false).unwrap();
    let whole = tokenizer.encode("a b é", true).unwrap();
    assert_eq!(whole[0], 1);
    assert_eq!(whole[1..], bare);
    assert!(
        bare.len() > 2,
        "the file's truncation to 2 tokens must not apply"
    );
    assert_eq!(tokenizer.decode(&whole, true), "a b é");
    assert!(tokenizer.decode(&whole, false).contains("<s>"));
}

#[test]
fn characters_are_streamed_when_they_are_whole() {
    let tokenizer = Tokenizer::open(&demo("target")).unwrap();
    let ids = tokenizer.encode("a🦀b", false).unwrap();
    assert_eq!(ids.len(), 6, "the crab is four byte tokens");
    let mut stream = tokenizer.stream();
    let parts: Vec<Option<String>> = ids.iter().map(|&id| stream.push(id)).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(parts, [some("a"), None, None, None, some("🦀"), some("b")]);
    assert_eq!(stream.finish(), "");

    let mut stream = tokenizer.stream();
    assert!(ids[..4].iter().filter_map(|&id| stream.push(id)).eq(["a"]));
    assert_eq!(stream.finish(), "\u{fffd}", "what never became whole");
}

#[test]
fn leading_spaces_survive_streaming() {
    let (_folder, tokenizer) = byte_fallback();
    let ids = tokenizer.encode("a a  b 日é", false).unwrap();
    assert_eq!(streamed(&tokenizer, &ids).concat(), "a a  b 日é");
    let with_special: Vec<u32> = ids.iter().flat_map(|&id| [2, id, 99_999]).collect();
    assert_eq!(streamed(&tokenizer, &with_special).concat(), "a a  b 日é");
}

#[test]
fn bytes_that_are_no_text_do_not_hold_up_the_stream() {
    let byte_level = Tokenizer::open(&demo("target")).unwrap();
    let crab = byte_level.encode("🦀", false).unwrap();
    let (_folder, fallback) = byte_fallback();
    // a continuation byte that continues nothing
    for (tokenizer, id) in [(&byte_level, crab[1]), (&fallback, 3 + 0x80)] {
        let parts = streamed(tokenizer, &[id; 100]);
        assert!(parts.len() > 50, "{parts:?}");
        assert_eq!(parts.concat(), "\u{fffd}".repeat(100));
    }
    // é, then a byte that spoils the run of bytes it stands in
    let ids = [3 + 0xc3, 3 + 0xa9, 3 + 0x80, 260];
    assert_eq!(fallback.token(260).as_deref(), Some("a"));
    let text = streamed(&fallback, &ids).concat();
    assert!(text.starts_with('é') && text.ends_with('a'), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_stream_adds_up_to_the_whole(text in "\\PC{0,24}") {
        let (_folder, fallback) = byte_fallback();
        for tokenizer in [&Tokenizer::open(&demo("target")).unwrap(), &fallback] {
            let ids = tokenizer.encode(&text, false).unwrap();
            let parts = streamed(tokenizer, &ids);
            prop_assert_eq!(parts.concat(), tokenizer.decode(&ids, true));
        }
    }

    #[test]
    fn a_stream_of_any_ids_adds_up_to_the_whole(ids in proptest::collection::vec(0u32..600, 0..60)) {
        let tokenizer = Tokenizer::open(&demo("target")).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &ids).concat(), tokenizer.decode(&ids, true));
    }

    #[test]
    fn a_stream_of_any_ids_never_panics(ids in proptest::collection::vec(0u32..300, 0..60)) {
        let (_folder, tokenizer) = byte_fallback();
        streamed(&tokenizer, &ids);
    }
}

#[test]
fn vocabularies_that_disagree_are_told_apart_by_their_first_token() {
    let (folder, ours) = byte_fallback();
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocab = changed["model"]["vocab"].as_object_mut().unwrap();
    // a smaller vocabulary agrees
    vocab.remove("日");
    let other = tempfile::tempdir().unwrap();
    let write = |tokenizer: &serde_json::Value| {
        std::fs::write(other.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        Tokenizer::open(other.path()).unwrap()
    };
    let smaller = write(&changed);
    ours.agrees_with(&smaller).unwrap();
    smaller.agrees_with(&ours).unwrap();
    // two tokens swapped do not
    let vocab = changed["model"]["vocab"].as_object_mut().unwrap();
    vocab["a"] = 261.into();
    vocab["b"] = 260.into();
    let error = ours.agrees_with(&write(&changed)).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with(r#"token 260 is "a" in "#), "{message}");
    assert!(message.contains(r#"but "b" in "#), "{message}");
    assert!(matches!(error, TokenizerError::Differ { id: 260, .. }));
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = |folder: &Path| Tokenizer::open(folder).unwrap_err().to_string();
    assert!(message(folder.path()).contains("tokenizer.json: found No such file"));
    for text in ["", "{}", "[]", r#"{"model": {"type": "BPE"}}"#, "\u{0}"] {
        std::fs::write(folder.path().join("tokenizer.json"), text).unwrap();
        let message = message(folder.path());
        assert!(message.contains("expected a tokenizer"), "{message}");
    }
    // on this the crate tokenizers panics, which must not reach the user
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(demo("target").join("tokenizer.json")).unwrap())
            .unwrap();
    tokenizer["model"]["continuing_subword_prefix"] = "##".into();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let message = message(folder.path());
    assert!(
        message.contains("found merges that contradict the vocabulary"),
        "{message}"
    );
}

/// Every construct that templates of Llama and Qwen models use.
const TEMPLATE: &str = r#"{# comment #}
{% set ns = namespace(found=false, n=0) -%}
{% if not date_string is defined %}
    {% set date_string = strftime_now("%d %b %Y") if false else "x" %}
{% endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set system = messages[0]['content']|trim %}
  {%- set messages = messages[1:] %}
{%- else %}
  {%- set system = "" %}
{%- endif %}
{{- bos_token + "S:" + system + "\n\n" }}
{% for message in messages %}
    {% generation %}
    {{ message | tojson }}
    {% endgeneration %}
    {%- set ns.n = ns.n + 1 %}
    {{ message.get('name', 'none') }} {{ loop.index }}/{{ loop.length }} {{ message.content[:5] }} {{ true }} {{ none }} {{ 3 / 2 }} {{ 7 // 2 }} {{ "%s-%d" | format("a", 3) }}
    {% if message.content is string and message is mapping and 'tool_calls' not in message %}ok{% endif %}
    {{ [1, "é<", {"k": 1.5}] | tojson(ensure_ascii=true) }} {{ {"a": [1, {}]} | tojson(indent=2) }} {{ ("it's <b> & \\ \"q\" é \n") | tojson }}
    {{ message.items() | list | length }} {{ message.content.replace('a', 'b').upper() }} {{ ['x', 'y'] | join(', ') }} {{ message['content'] | length }} {{ message.missing }} {{ loop.previtem is defined }}
    {% if '</think>' in message.content %}{{ message.content.split('</think>')[-1].lstrip('\n') }}{% endif %}
{% endfor %}
{{ ns.n }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | map(attribute='content') | first }} {{ tools is defined }} {{ tools is none }} {{ messages[::-1][0].role }}
{% macro m(x, y=2) %}<{{ x }}{{ y }}>{% endmacro %}{{ m(1) }}{{ m(1, y='z') }}
{% if add_generation_prompt %}A:{% endif %}
"#;

fn template(tokenizer_config: &str, jinja: Option<&str>) -> Result<Option<ChatTemplate>, String> {
    ChatTemplate::parse(
        Some((Path::new("tokenizer_config.json"), tokenizer_config)),
        jinja.map(|text| (Path::new("chat_template.jinja"), text)),
    )
    .map_err(|e| e.to_string())
}

/// What transformers 5.23 makes of [`TEMPLATE`].
#[test]
fn templates_render_as_in_transformers() {
    let template = template(
        r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#,
        Some(TEMPLATE),
    );
    let template = template.unwrap().unwrap();
    let conversation = [
        Message::new("system", "  be nice \n"),
        Message::new("user", "a 'q' & \"x\""),
        Message::new("assistant", "<think>\nhm\n</think>\n\nyes"),
        Message::new("user", "more"),
    ];
    let expected = r###"<s>S:be nice


    {"role": "user", "content": "a 'q' & \"x\""}
    none 1/3 a 'q' True None 1.5 3 a-3
ok    [1, "\u00e9<", {"k": 1.5}] {
  "a": [
    1,
    {}
  ]
} "it's <b> & \\ \"q\" é \n"
    2 B 'Q' & "X" x, y 11  False
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    none 2/3 <thin True None 1.5 3 a-3
ok    [1, "\u00e9<", {"k": 1.5}] {
  "a": [
    1,
    {}
  ]
} "it's <b> & \\ \"q\" é \n"
    2 <THINK>
HM
</THINK>

YES x, y 24  True
yes    {"role": "user", "content": "more"}
    none 3/3 more True None 1.5 3 a-3
ok    [1, "\u00e9<", {"k": 1.5}] {
  "a": [
    1,
    {}
  ]
} "it's <b> & \\ \"q\" é \n"
    2 MORE x, y 4  True
3 2 a 'q' & "x" True True user
<12><1z>
A:"###;
    assert_eq!(template.render(&conversation, true).unwrap(), expected);
    let expected = r###"<s>S:


    {"role": "user", "content": "日本 é"}
    none 1/1 日本 é True None 1.5 3 a-3
ok    [1, "\u00e9<", {"k": 1.5}] {
  "a": [
    1,
    {}
  ]
} "it's <b> & \\ \"q\" é \n"
    2 日本 É x, y 4  False
1 1 日本 é True True user
<12><1z>
"###;
    assert_eq!(
        template
            .render(&[Message::new("user", "日本 é")], false)
            .unwrap(),
        expected
    );
}

#[test]
fn the_demo_template_renders() {
    let template = ChatTemplate::open(&demo("target")).unwrap().unwrap();
    let conversation = [
        Message::new("user", "2 + 3?"),
        Message::new("assistant", "5"),
        Message::new("user", "4 + 3?"),
    ];
    let text = template.render(&conversation, true).unwrap();
    assert_eq!(text, "<|begin|>Q: 2 + 3?\nA: 5<|end|>Q: 4 + 3?\nA:");
}

#[test]
fn templates_are_found_where_transformers_looks() {
    let user = [Message::new("user", "hi")];
    let table = [
        (
            r#"{"chat_template": "one {{ eos_token }}", "eos_token": "</s>"}"#,
            None,
            Some("one </s>"),
        ),
        (r#"{"chat_template": "one"}"#, Some("file"), Some("file")),
        (
            r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
            None,
            Some("d"),
        ),
        (r#"{"chat_template": null}"#, None, None),
        ("{}", None, None),
        (
            r#"{"bos_token": null, "chat_template": "[{{ bos_token }}]"}"#,
            None,
            Some("[]"),
        ),
    ];
    for (config, jinja, expected) in table {
        let text = template(config, jinja)
            .unwrap()
            .map(|t| t.render(&user, false).unwrap());
        assert_eq!(text.as_deref(), expected, "{config} {jinja:?}");
    }
    assert!(
        ChatTemplate::open(tempfile::tempdir().unwrap().path())
            .unwrap()
            .is_none()
    );
}

#[test]
fn templates_that_cannot_be_used_say_why() {
    let table = [
        ("{", "tokenizer_config.json: found invalid JSON"),
        (
            r#"{"chat_template": 7}"#,
            "found 7, expected a chat_template that is a string",
        ),
        (
            r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#,
            "found templates \"rag\", expected",
        ),
        (
            r#"{"chat_template": [3]}"#,
            "found templates one without name",
        ),
        (
            r#"{"chat_template": "{% if %}"}"#,
            "tokenizer_config.json: chat template: syntax error",
        ),
        (
            r#"{"chat_template": "{% if x"}"#,
            "chat template: syntax error",
        ),
    ];
    for (config, expected) in table {
        let message = template(config, None).unwrap_err();
        assert!(message.contains(expected), "{config}: {message}");
    }
    let refusals = [
        (
            "{{ raise_exception('no system role, please') }}",
            "no system role, please",
        ),
        ("{{ messages.x.y }}", "undefined"),
        ("{{ nonesuch() }}", "unknown function"),
        ("{{ 'x' | tojson(indent=100000) }}", "indent"),
        (
            "{% for i in range(20000) %}{{ 'x' * 9999 }}{% endfor %}",
            "more than 67108864 bytes",
        ),
    ];
    for (source, expected) in refusals {
        let template = template("{}", Some(source)).unwrap().unwrap();
        let message = template.render(&[], false).unwrap_err().to_string();
        assert!(
            message.starts_with("chat_template.jinja: chat template: "),
            "{message}"
        );
        assert!(message.contains(expected), "{source}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), b"\xff{{ x }}").unwrap();
    let message = ChatTemplate::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("bytes that are not UTF-8, expected UTF-8 text"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn reading_a_template_never_panics(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", " generation ", " endgeneration ", "messages",
            "[0]", "[::-1]", ".content", ".split('x')", "if ", "endif", "for m in ", "endfor", "set x = ",
            "|tojson", "|trim", "(", ")", "'", "\"", "not ", "is defined", "namespace(n=1)", "loop.index",
            "raise_exception('x')", "strftime_now('%Y%')", "é", "\n", "1", " - ", " + ", "\\",
        ]), 0..20),
        content in "\\PC{0,8}",
    ) {
        if let Ok(Some(template)) = template("{}", Some(&pieces.concat())) {
            let _ = template.render(&[Message::new("user", content)], true);
        }
    }

    #[test]
    fn reading_a_tokenizer_config_never_panics(text in "[{}\\[\\]\":,a-z_ 0-9]{0,60}") {
        let _ = template(&text, None);
        let _ = template(&format!(r#"{{"chat_template": {text}}}"#), None);
        let _ = template(&format!(r#"{{"chat_template": "{text}", "bos_token": {text}}}"#), None);
    }
}
