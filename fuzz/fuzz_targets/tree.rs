#![no_main]
//! Token trees as `logits --tree` takes them, and tree shapes.

use gavel::tree::{MAX_ROWS, Shape, TokenTree};
use libfuzzer_sys::fuzz_target;

mod patch;

const VALID: &[u8] = br#"{"tokens": [5, 6, 7, 8], "parents": [-1, 0, 0, 2]}"#;

#[derive(serde::Deserialize)]
struct Lists {
    tokens: Vec<u32>,
    parents: Vec<i32>,
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    if mode % 3 == 0 {
        let text = String::from_utf8_lossy(data);
        if let Ok(shape) = text.parse::<Shape>() {
            assert!(shape.nodes() <= MAX_ROWS);
            assert_eq!(shape.to_string().parse::<Shape>().as_ref(), Ok(&shape));
            for depth in 0..4 {
                assert!(shape.cut(depth).depth() <= depth);
            }
        }
        return;
    }
    let lists = match mode % 3 {
        1 => serde_json::from_slice(&patch::patched(VALID, data)).ok(),
        // a pair of bytes a node, so that most trees are nearly right
        _ => Some(Lists {
            tokens: data.chunks_exact(2).map(|pair| pair[0].into()).collect(),
            parents: data
                .chunks_exact(2)
                .map(|pair| i32::from(pair[1] as i8))
                .collect(),
        }),
    };
    let Some(Lists { tokens, parents }) = lists else {
        return;
    };
    if let Ok(tree) = TokenTree::new(tokens, parents) {
        let depths = tree.depths();
        assert!(tree.len() <= MAX_ROWS);
        assert_eq!(depths.len(), tree.len());
        for (node, depth) in depths.into_iter().enumerate() {
            assert_eq!(tree.path(node).len(), depth);
            assert!(tree.children(tree.parent(node)).any(|n| n == node));
        }
    }
});
