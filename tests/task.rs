//! Problems, final answers, summaries and programs: what is taken for right.

mod common;

use common::*;
use gavel::task::{
    CheckError, Checker, Grade, Grader, Limits, Problem, Reference, Sandbox, Task, TaskError,
    Verdict, rouge,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn checker(name: &str) -> Checker {
    name.parse().unwrap()
}

fn found(checker: &Checker, text: &str) -> Option<String> {
    checker.answer(text).map(|a| a.text().to_owned())
}

#[test]
fn final_answers_are_found_where_they_stand() {
    let table: &[(&str, &str, Option<&str>)] = &[
        ("hashes", "so 3 + 4 = 7.\n#### 7", Some("7")),
        ("hashes", "#### 1,234.50", Some("1,234.50")),
        ("hashes", "####-5", Some("-5")),
        ("hashes", "#### $18", Some("18")),
        ("hashes", "#### -$18 a day", Some("-18")),
        ("hashes", "#### **42**", Some("42")),
        ("hashes", "#### .5", Some(".5")),
        ("hashes", "#### 1\nand later\n#### 2", Some("2")),
        // chat models head paragraphs like that
        ("hashes", "#### 7\n#### Check of step 3", Some("7")),
        ("hashes", "#### Step 3", None),
        ("hashes", "####", None),
        ("hashes", "#### \n7", None),
        ("hashes", "The answer is 7", None),
        ("hashes", "", None),
        ("gsm8k", "2 + 2 = 5\n#### 4", Some("4")),
        (
            "gsm8k",
            "The final answer is $12.00, as 3 * 4.",
            Some("12.00"),
        ),
        (
            "gsm8k",
            "The answer is 7, which is 2 more than 5.",
            Some("7"),
        ),
        ("gsm8k", "the answer is unclear\n\n8 of 9", Some("9")),
        ("gsm8k", "Answer: 1,000 in 2020", Some("1,000")),
        ("gsm8k", "20-4 = 16", Some("16")),
        ("gsm8k", "16 = 20-4", Some("4")),
        ("gsm8k", "in all (5)-4", Some("4")),
        ("gsm8k", "that leaves −3.", Some("-3")),
        ("gsm8k", "that leaves -3.", Some("-3")),
        ("gsm8k", "she has 1, 2 or 3.5.", Some("3.5")),
        ("gsm8k", "the pairs (1,2)", Some("2")),
        ("gsm8k", "1,00,000 rupees", Some("1,00,000")),
        ("gsm8k", "no number", None),
        ("boxed", "so $\\boxed{42}$.", Some("42")),
        (
            "boxed",
            "\\boxed{1} and \\boxed{\\frac{1}{2}}",
            Some("\\frac{1}{2}"),
        ),
        ("boxed", "\\fbox{7}", Some("7")),
        ("boxed", "\\boxed 5$ ok", Some("5")),
        (
            "boxed",
            "\\boxed{\\left\\{1,2\\right\\}}",
            Some("\\left\\{1,2\\right\\}"),
        ),
        (
            "boxed",
            "\\boxed{\\left\\{1\\right.}",
            Some("\\left\\{1\\right."),
        ),
        ("boxed", "\\boxed{a{b}{c}} tail}", Some("a{b}{c}")),
        ("boxed", "\\boxed{cut \\frac{1}{", None),
        ("boxed", "\\boxed{ }", None),
        ("boxed", "nothing", None),
        ("choice", "The answer is (C).", Some("C")),
        ("choice", "the correct answer is: **B**", Some("B")),
        ("choice", "A is wrong. Answer: D", Some("D")),
        ("choice", "**Answer:** A", Some("A")),
        ("choice", "Answer: $\\boxed{\\text{B}}$", Some("B")),
        ("choice", "so \\boxed{C} it is, not A", Some("C")),
        ("choice", "Answer: A\nNo, wait.\nAnswer: B", Some("B")),
        ("choice", "A or B? B", Some("B")),
        ("choice", "B", Some("B")),
        ("choice", "E", None),
        ("choice", "the answer is about Birds", None),
    ];
    for (name, text, expected) in table {
        let found = found(&checker(name), text);
        assert_eq!(found.as_deref(), *expected, "{name}: {text}");
    }
}

#[test]
fn the_same_answer_in_another_spelling_is_the_same() {
    let same: &[(&str, &str, &str)] = &[
        ("hashes", "#### 1,000", "#### 1000.0"),
        ("hashes", "#### $1000", "#### 1000."),
        ("hashes", "#### 50%", "#### 50"),
        ("hashes", "#### 007", "#### 7"),
        ("hashes", "#### -0", "#### 0.00"),
        ("hashes", "#### .5", "#### 0.50"),
        ("hashes", "#### −5", "#### -5"),
        (
            "hashes",
            "#### 12345678901234567890",
            "#### 12,345,678,901,234,567,890",
        ),
        ("boxed", "\\boxed{\\dfrac12}", "\\boxed{\\frac{1}{2}}"),
        ("boxed", "\\boxed{\\tfrac{1}2}", "\\boxed{1/2}"),
        ("boxed", "\\boxed{0.5}", "\\boxed{\\frac{1}{2}}"),
        ("boxed", "\\boxed{.50}", "\\boxed{\\frac 12}"),
        ("boxed", "\\boxed{x = 3}", "\\boxed{3}"),
        ("boxed", "\\boxed{\\$1,000}", "\\boxed{1000}"),
        ("boxed", "\\boxed{45^\\circ}", "\\boxed{45}"),
        ("boxed", "\\boxed{45^{\\circ}}", "\\boxed{45.0}"),
        ("boxed", "\\boxed{12\\text{ cm}^2}", "\\boxed{12}"),
        ("boxed", "\\boxed{\\text{Tuesday}}", "\\boxed{Tuesday}"),
        ("boxed", "\\boxed{\\left( 1, 2 \\right)}", "\\boxed{(1,2)}"),
        ("boxed", "\\boxed{2\\sqrt3}", "\\boxed{2\\sqrt{3}}"),
        ("boxed", "\\boxed{10\\%}", "\\boxed{10}"),
        ("boxed", "\\boxed{-3/4}", "\\boxed{\\frac{-3}{4}}"),
        ("choice", "Answer: A", "the answer is (A)"),
    ];
    let different: &[(&str, &str, &str)] = &[
        ("hashes", "#### 1000", "#### 1000.01"),
        ("hashes", "#### 5", "#### -5"),
        ("hashes", "#### 1.0", "#### 10"),
        (
            "hashes",
            "#### 12345678901234567890",
            "#### 12345678901234567891",
        ),
        ("boxed", "\\boxed{\\frac{1}{2}}", "\\boxed{\\frac{2}{1}}"),
        ("boxed", "\\boxed{(1,2)}", "\\boxed{(2,1)}"),
        ("boxed", "\\boxed{(1,200)}", "\\boxed{(1200)}"),
        ("boxed", "\\boxed{abc = 3}", "\\boxed{3}"),
        ("boxed", "\\boxed{\\sqrt{31}}", "\\boxed{\\sqrt31}"),
        ("choice", "Answer: A", "Answer: B"),
    ];
    let tables = [(same, true), (different, false)];
    for (table, expected) in tables {
        for (name, a, b) in table {
            let checker = checker(name);
            let answer = |text| checker.answer(text).unwrap_or_else(|| panic!("{text}"));
            for (a, b) in [(a, b), (b, a)] {
                let same = checker.same(&answer(a), &answer(b)).unwrap();
                assert_eq!(same, expected, "{name}: {a} and {b}");
            }
        }
    }
}

#[test]
fn checkers_are_written_as_they_are_read() {
    for name in [
        "hashes",
        "gsm8k",
        "boxed",
        "choice",
        "command=python3 check.py --fast",
    ] {
        assert_eq!(checker(name).to_string(), name);
    }
    for name in ["", "Boxed", "command=", "command", "number"] {
        let error = name.parse::<Checker>().unwrap_err().to_string();
        assert!(
            error.contains("expected hashes, gsm8k, boxed, choice"),
            "{error}"
        );
    }
}

#[test]
#[cfg(unix)]
fn a_command_of_the_users_decides_and_its_failures_are_told() {
    let check = |command: &str, a: &str, b: &str| {
        let checker = checker(&format!("command={command}"));
        let checker = checker.with_timeout(Duration::from_millis(700));
        let answer = |text| checker.answer(text).unwrap();
        checker.same(&answer(a), &answer(b))
    };
    // both texts arrive, whatever is in them
    let script = r#"python3 -c 'import json, sys; d = json.load(sys.stdin); sys.exit(d["a"].lower() != d["b"].lower())'"#;
    assert!(check(script, "Yes \"\n\" é", "yES \"\n\" É").unwrap());
    assert!(!check(script, "Yes", "No").unwrap());
    // more input than a pipe holds, and nobody reads it
    assert!(check("exit 0", &"long ".repeat(100_000), "b").unwrap());
    let began = Instant::now();
    let table = [
        ("echo oh no >&2; exit 3", "exit code 3 (oh no)"),
        ("no-such-command-anywhere", "exit code 127"),
        ("kill -9 $$", "ended by a signal"),
        ("sleep 30", "no result after 0.7 s"),
        // what it leaves behind holds its pipes open
        ("sleep 30 & exit 4", "exit code 4"),
    ];
    for (command, expected) in table {
        let error = check(command, "a", "b").unwrap_err();
        assert!(matches!(error, CheckError::Command { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

fn parse(task: Task, text: &str) -> Result<Vec<Problem>, TaskError> {
    task.parse(text.as_bytes(), Path::new("data.jsonl"))
}

#[test]
fn data_files_are_read_as_they_are_published() {
    let gsm8k = r#"{"question": "How many?", "answer": "One <<1+1=2>>2.\n#### 2"}"#;
    let table = [
        (Task::Gsm8k, gsm8k, "1", "2"),
        (Task::WordProblems, gsm8k, "1", "2"),
        (
            Task::Math,
            r#"{"problem": "x?", "solution": "So $x=\\boxed{\\frac{1}{2}}$.", "level": "Level 1"}"#,
            "1",
            "\\frac{1}{2}",
        ),
        (
            Task::Math,
            r#"{"problem": "x?", "solution": "no box", "answer": "7", "unique_id": "test/a/1.json"}"#,
            "test/a/1.json",
            "7",
        ),
        (
            Task::Mmlu,
            r#"{"question": "Which?", "choices": ["p", "q", "r", "s"], "answer": 2}"#,
            "1",
            "C",
        ),
        (
            Task::Mmlu,
            r#"{"question": "Which?", "choices": ["p", "q", "r", "s"], "answer": "D", "id": 17}"#,
            "17",
            "D",
        ),
    ];
    for (task, line, id, expected) in table {
        // a blank line, a carriage return, no newline at the end
        let problems = parse(task, &format!("\n{line}\r\n{line}")).unwrap();
        assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 2]);
        let first = if id == "1" { "2" } else { id };
        assert_eq!(problems[0].id, first, "{task}");
        let Reference::Answer(reference) = &problems[0].reference else {
            panic!("{task}");
        };
        let found = task.checker().unwrap().answer(reference).unwrap();
        assert_eq!(found.text(), expected, "{task}");
        assert!(problems[0].plain.starts_with("Question: "), "{task}");
    }
    let mmlu = &parse(Task::Mmlu, table[4].1).unwrap()[0];
    assert!(
        mmlu.prompt.starts_with("Which?\nA. p\nB. q\nC. r\nD. s\n"),
        "{}",
        mmlu.prompt
    );
    let demo = Task::WordProblems
        .read(&root().join("models/demo/problems.jsonl"))
        .unwrap();
    assert_eq!(demo.len(), 500);
    assert!(
        demo[0]
            .prompt
            .ends_with("How many cards does Finn have now?")
    );
}

#[test]
fn a_wrong_line_is_named_with_what_belongs_there() {
    let mmlu = |rest: &str| format!(r#"{{"question": "Which?", {rest}}}"#);
    let table = [
        (Task::Gsm8k, "no json".to_owned(), "invalid JSON"),
        (
            Task::Gsm8k,
            "[1]".to_owned(),
            "found a list, expected a JSON object",
        ),
        (
            Task::Gsm8k,
            r#"{"problem": "x", "solution": "y"}"#.to_owned(),
            "found the fields 'problem', 'solution', expected a field 'question'",
        ),
        (
            Task::Gsm8k,
            r#"{"question": 1, "answer": "y"}"#.to_owned(),
            "found a number as 'question', expected text",
        ),
        (
            Task::WordProblems,
            r#"{"question": "x", "answer": "It is 7."}"#.to_owned(),
            "no answer in 'It is 7.'",
        ),
        (
            Task::Math,
            r#"{"problem": "x", "solution": "no box"}"#.to_owned(),
            "expected 'answer', or 'solution' with \\boxed{...}",
        ),
        (
            Task::Math,
            r#"{"problem": "x", "answer": null}"#.to_owned(),
            "null as 'answer'",
        ),
        (
            Task::Mmlu,
            mmlu(r#""choices": ["a", "b"], "answer": 0"#),
            "2 'choices', expected a list of four texts",
        ),
        (
            Task::Mmlu,
            mmlu(r#""choices": ["a", "b", "c", 4], "answer": 0"#),
            "a number among 'choices'",
        ),
        (
            Task::Mmlu,
            mmlu(r#""choices": ["a", "b", "c", "d"], "answer": 4"#),
            "'answer' 4, expected an index from 0 to 3",
        ),
        (
            Task::Mmlu,
            mmlu(r#""choices": ["a", "b", "c", "d"], "answer": "E""#),
            "'answer' \"E\"",
        ),
        (
            Task::HumanEval,
            r#"{"task_id": "x", "prompt": "def f():"}"#.to_owned(),
            "expected a field 'entry_point'",
        ),
        (
            Task::Summarize,
            r#"{"article": "x"}"#.to_owned(),
            "expected a field 'highlights'",
        ),
    ];
    for (task, line, expected) in table {
        let error = parse(task, &format!("\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains(expected), "{task}: {error}");
        assert!(
            error.starts_with(&format!("data.jsonl, line 2: {task}: ")),
            "{error}"
        );
    }
    for text in ["", "\n \n"] {
        let error = parse(Task::Gsm8k, text).unwrap_err().to_string();
        assert!(error.contains("found no line with a problem"), "{error}");
    }
    let error = Task::Gsm8k.read(Path::new("no/such/file")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/file: "), "{error}");
    let error = "gsm9k".parse::<Task>().unwrap_err().to_string();
    assert!(
        error.contains("'gsm9k': expected gsm8k, math, mmlu, humaneval"),
        "{error}"
    );
    for task in Task::ALL {
        assert_eq!(task.to_string().parse::<Task>(), Ok(task));
        assert_eq!(serde_json::to_value(task).unwrap(), task.name());
    }
}

#[test]
fn rouge_is_googles_rouge_score() {
    #[derive(serde::Deserialize)]
    struct Case {
        reference: String,
        text: String,
        f1: [f64; 3],
    }
    let text = std::fs::read_to_string(root().join("tests/fixtures/rouge.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 50);
    for case in &cases {
        let found = rouge::rouge(&case.reference, &case.text);
        let found = [found.rouge_1, found.rouge_2, found.rouge_l];
        for (found, expected) in found.iter().zip(case.f1) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{:?} and {:?}: {found} for {expected}",
                case.reference,
                case.text
            );
        }
        assert_eq!(rouge::rouge_l(&case.reference, &case.text), found[2]);
    }
}

const ADD: &str = r#"{"task_id": "Add/0", "prompt": "from typing import List\n\n\ndef add(xs: List[int]) -> int:\n    \"\"\"Adds them.\"\"\"\n", "entry_point": "add", "canonical_solution": "    return sum(xs)\n", "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"}"#;

/// Programs of this test are harmless; where the system cannot isolate, limits alone do.
#[cfg(target_os = "linux")]
fn sandbox() -> Sandbox {
    let limits = Limits {
        time: Duration::from_secs(3),
        ..Limits::default()
    };
    Sandbox::open("python3", limits, false)
        .or_else(|why| {
            println!("{why}");
            Sandbox::open("python3", limits, true)
        })
        .unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn programs_pass_or_fail_by_their_tests() {
    let grader = Grader {
        sandbox: Some(sandbox()),
        ..Grader::of(Task::HumanEval)
    };
    let problem = &parse(Task::HumanEval, ADD).unwrap()[0];
    let grade = |response: &str| grader.grade(problem, response).unwrap();
    let right = [
        "    return sum(xs)\n",
        "Here it is:\n```python\ndef add(xs: List[int]) -> int:\n    return sum(xs)\n```\nDone.",
        "```python\n    return sum(xs)\n```",
        "```\ndef helper():\n    pass\n```\nand\n```py\ndef add(xs):\n    return sum(xs)",
        "def add(xs):\n    return sum(xs)",
        // what it prints is nobody's business
        "    print('{\"passed\": false}')\n    return sum(xs)\n",
    ];
    for response in right {
        assert_eq!(
            grade(response),
            Grade {
                right: Some(true),
                ..Grade::default()
            },
            "{response}"
        );
    }
    let wrong = [
        ("    return len(xs)\n", "AssertionError"),
        ("    return sum(xs\n", "SyntaxError"),
        ("    import sys; sys.exit(0)\n", "SystemExit"),
        (
            "    import os; os._exit(0)\n",
            "ended with code 0 and no result",
        ),
        ("    while True: pass\n", "out of time"),
        ("    import time; time.sleep(60)\n", "out of time"),
        ("    return len(bytearray(1 << 31))\n", "MemoryError"),
        ("I do not know.", "SyntaxError"),
        ("", "AssertionError"),
    ];
    for (response, expected) in wrong {
        let grade = grade(response);
        assert_eq!(grade.right, Some(false), "{response}");
        let why = grade.answer.unwrap();
        assert!(why.contains(expected), "{response}: {why}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn programs_reach_neither_network_nor_files() {
    let sandbox = sandbox();
    if !sandbox.isolates() {
        println!("not tested: this system does not isolate processes");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    std::fs::write(&kept, "kept").unwrap();
    let pid = std::process::id();
    let table = [
        (format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"), "OSError"),
        (format!("open({kept:?}, 'w').write('lost')"), "OSError: [Errno 30]"),
        (format!("import os\nos.remove({kept:?})"), "OSError: [Errno 30]"),
        ("open('/dev/shm/gavel', 'w')".to_owned(), "OSError: [Errno 30]"),
        (format!("import os\nos.kill({pid}, 0)"), "ProcessLookupError"),
        // the rights that would undo it are gone
        (
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.mount(None, b'/', None, 4096 | 32, None): raise OSError(ctypes.get_errno(), 'mount')".to_owned(),
            "mount",
        ),
        ("import subprocess\nsubprocess.run(['mount', '-o', 'remount,rw', '/'], check=True)".to_owned(), "Error"),
    ];
    for (program, expected) in table {
        match sandbox.run(&program).unwrap() {
            Verdict::Failed(why) => assert!(why.contains(expected), "{program}: {why}"),
            other => panic!("{program}: {other:?}"),
        }
    }
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
}

#[test]
#[cfg(target_os = "linux")]
fn without_an_interpreter_programs_are_refused() {
    let limits = Limits::default();
    for (python, expected) in [
        ("no-such-python", "No such file"),
        ("true", "ended with code 0"),
    ] {
        for unsafe_code in [false, true] {
            let error = Sandbox::open(python, limits, unsafe_code)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("expected a Python 3 interpreter"), "{error}");
        }
    }
    let grader = Grader::of(Task::HumanEval);
    let problem = &parse(Task::HumanEval, ADD).unwrap()[0];
    let error = grader.grade(problem, "").unwrap_err().to_string();
    assert!(error.contains("Add/0: found no sandbox"), "{error}");
}

#[test]
fn responses_are_graded_by_what_their_problem_has() {
    let problem = &parse(
        Task::WordProblems,
        r#"{"question": "x", "answer": "It is\n#### 1,000"}"#,
    )
    .unwrap()[0];
    let grader = Grader::of(Task::WordProblems);
    let grade = |response: &str| grader.grade(problem, response).unwrap();
    let expected = Grade {
        right: Some(true),
        answer: Some("1000.0".into()),
        rouge: None,
    };
    assert_eq!(grade("#### 1000.0"), expected);
    assert_eq!(grade("#### 7").right, Some(false));
    assert_eq!(
        grade("It is 1000."),
        Grade {
            right: Some(false),
            answer: None,
            rouge: None
        }
    );

    let boxed = Grader {
        checker: Some(Checker::Boxed),
        sandbox: None,
    };
    let error = boxed.grade(problem, "\\boxed{7}").unwrap_err().to_string();
    assert!(
        error.contains("the checker boxed finds no final answer in the reference"),
        "{error}"
    );

    let problem = &parse(
        Task::Summarize,
        r#"{"article": "x", "highlights": "A b.\nC d ."}"#,
    )
    .unwrap()[0];
    let grade = Grader::of(Task::Summarize).grade(problem, "a b c").unwrap();
    assert_eq!(grade.right, None);
    let rouge = grade.rouge.unwrap();
    assert!((rouge.rouge_1 - 6.0 / 7.0).abs() < 1e-12, "{rouge:?}");
}
