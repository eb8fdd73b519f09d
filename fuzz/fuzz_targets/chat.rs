#![no_main]
//! Chat templates and the file that holds them.

use std::path::Path;

use gavel::model::{ChatTemplate, Message};
use libfuzzer_sys::fuzz_target;

mod patch;

const TEMPLATE: &[u8] = br#"{{- bos_token }}{% for m in messages[::-1] %}
{%- if m['role'] == 'user' and loop.index0 > 0 %}{{ m.content.split('x')[-1].strip() | trim }}{% endif %}
{% generation %}{{ m | tojson(indent=2) }}{% endgeneration %}{% set ns = namespace(n=0) %}
{% if not tools is defined %}{{ raise_exception('no ' + ns.n) }}{% endif %}{% endfor %}
{{ strftime_now("%d %b %Y") }}{% if add_generation_prompt %}A:{% endif %}"#;

const CONFIG: &[u8] = br#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>",
"chat_template": [{"name": "default", "template": "{{ eos_token }}{% if true %}1{% endif %}"}]}"#;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let (config, jinja) = match mode % 4 {
        0 => (CONFIG.to_vec(), Some(data.to_vec())),
        1 => (CONFIG.to_vec(), Some(patch::patched(TEMPLATE, data))),
        2 => (patch::patched(CONFIG, data), None),
        _ => (data.to_vec(), None),
    };
    let config = String::from_utf8_lossy(&config);
    let jinja = jinja.map(|text| String::from_utf8_lossy(&text).into_owned());
    let template = ChatTemplate::parse(
        Some((Path::new("tokenizer_config.json"), &config)),
        jinja
            .as_ref()
            .map(|text| (Path::new("chat_template.jinja"), text.as_str())),
    );
    match template {
        Ok(Some(template)) => {
            let conversation = [
                Message::new("system", "be x"),
                Message::new("user", "é 'x'"),
            ];
            if let Err(error) = template.render(&conversation, true) {
                assert!(!error.to_string().is_empty());
            }
        }
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
