//! Programs that a model wrote, run where they can do no harm, and commands with a limit.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs Python programs under limits of time and memory, without network, with every file
/// system read-only, in a process namespace of their own.
///
/// It is made of Linux's user, network, mount and process namespaces (`unshare` of
/// util-linux, `mount_setattr` of Linux 5.12) and resource limits. What can be read on the
/// machine can be read in there; nothing can leave it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    python: String,
    limits: Limits,
    isolate: bool,
}

/// What a program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall clock and, to the next second, processor time.
    pub time: Duration,
    /// Address space, the interpreter's own included.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            time: Duration::from_secs(10),
            memory_bytes: 1 << 30,
        }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// It raised an exception, ended itself or was ended: why.
    Failed(String),
    /// It was still running when its time was over.
    TimedOut,
}

/// Why programs cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// This system does not isolate processes, or not for this user.
    #[error(
        "programs that a model wrote are run without network and with read-only files only, and this system does not offer that: {why}. It takes Linux 5.12 or newer, unshare of util-linux and user namespaces; --unsafe-code runs them with limits of time and memory alone"
    )]
    Unavailable {
        /// What did not work.
        why: String,
    },
    /// The interpreter cannot be run.
    #[error("{python}: {why}, expected a Python 3 interpreter")]
    Python {
        /// Its name.
        python: String,
        /// What happened instead.
        why: String,
    },
}

const HARNESS: &str = include_str!("sandbox.py");

impl Sandbox {
    /// Tries the interpreter and the isolation with an empty program.
    ///
    /// With `unsafe_code` programs run with limits of time and memory alone.
    pub fn open(python: &str, limits: Limits, unsafe_code: bool) -> Result<Sandbox, SandboxError> {
        let mut sandbox = Sandbox {
            python: python.to_owned(),
            limits,
            isolate: false,
        };
        // first without: what fails here is the interpreter's fault
        let failed = |why| SandboxError::Python {
            python: python.to_owned(),
            why,
        };
        match sandbox.run("")? {
            Verdict::Passed => {}
            Verdict::Failed(why) => return Err(failed(why)),
            Verdict::TimedOut => {
                return Err(failed(format!("no result after {:?}", limits.time)));
            }
        }
        if unsafe_code {
            return Ok(sandbox);
        }
        sandbox.isolate = true;
        match sandbox.run("")? {
            Verdict::Passed => Ok(sandbox),
            Verdict::Failed(why) => Err(SandboxError::Unavailable { why }),
            Verdict::TimedOut => Err(SandboxError::Unavailable {
                why: format!("an empty program gave no result after {:?}", limits.time),
            }),
        }
    }

    /// Whether programs are cut off from network and files.
    pub fn isolates(&self) -> bool {
        self.isolate
    }

    /// Runs a program to its end or to a limit.
    pub fn run(&self, program: &str) -> Result<Verdict, SandboxError> {
        // a program that prints what looks like a report does not know this
        let nonce = format!("{:016x}", fastrand::u64(..));
        let request = serde_json::json!({
            "program": program,
            "nonce": nonce,
            "isolate": self.isolate,
            "memory_bytes": self.limits.memory_bytes,
            "cpu_seconds": self.limits.time.as_secs() + 1,
        });
        let mut command = Command::new(if self.isolate {
            "unshare"
        } else {
            &self.python
        });
        if self.isolate {
            command.args(["--user", "--map-root-user", "--net", "--ipc", "--uts"]);
            command.args(["--pid", "--mount", "--fork", "--kill-child", "--"]);
            command.arg(&self.python);
        }
        command.args(["-I", "-B", "-c", HARNESS]);
        // nothing of the environment is the program's business but where libraries are
        let kept = ["PATH", "LD_LIBRARY_PATH"];
        command.env_clear();
        command.envs(kept.iter().filter_map(|k| Some((k, std::env::var_os(k)?))));
        let output = run_with_limit(command, request.to_string().as_bytes(), self.limits.time);
        let output = output.map_err(|e| match self.isolate {
            true => SandboxError::Unavailable {
                why: format!("unshare: {e}"),
            },
            false => SandboxError::Python {
                python: self.python.clone(),
                why: e.to_string(),
            },
        })?;
        if output.ended == Ended::TimedOut {
            return Ok(Verdict::TimedOut);
        }
        #[derive(serde::Deserialize)]
        struct Report {
            nonce: String,
            #[serde(default)]
            passed: bool,
            failed: Option<String>,
            refused: Option<String>,
        }
        let reports = output.stdout.split(|&b| b == b'\n');
        let report = reports
            .filter_map(|line| serde_json::from_slice::<Report>(line).ok())
            .find(|report| report.nonce == nonce);
        match report {
            Some(Report { passed: true, .. }) => Ok(Verdict::Passed),
            Some(Report {
                refused: Some(why), ..
            }) if self.isolate => Err(SandboxError::Unavailable { why }),
            Some(Report {
                failed: Some(why), ..
            })
            | Some(Report {
                refused: Some(why), ..
            }) => Ok(Verdict::Failed(why)),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().rfind(|l| !l.trim().is_empty());
                let ended = match output.ended {
                    Ended::Exit(code) => format!("ended with code {code} and no result"),
                    _ => "was ended by a signal".to_owned(),
                };
                Ok(Verdict::Failed(match last {
                    Some(line) => format!("{ended} ({})", line.trim()),
                    None => ended,
                }))
            }
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exit(i32),
    Signal,
    TimedOut,
}

pub(super) struct Output {
    pub ended: Ended,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// More output than this is thrown away.
const MOST_OUTPUT_BYTES: u64 = 1 << 20;

/// Runs a command with `input` on its standard input; it and all it started are ended when
/// the limit is reached.
pub(super) fn run_with_limit(
    mut command: Command,
    input: &[u8],
    limit: Duration,
) -> io::Result<Output> {
    let began = Instant::now();
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // a command that does not read its input is free not to
            stdin.map(|mut stdin| stdin.write_all(input))
        });
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let status = wait(&mut child, began, limit);
        // what the command left running would keep the pipes open
        end_group(&mut child);
        let ended = match status? {
            None => Ended::TimedOut,
            Some(status) => status.code().map_or(Ended::Signal, Ended::Exit),
        };
        let read =
            |thread: std::thread::ScopedJoinHandle<'_, Vec<u8>>| thread.join().unwrap_or_default();
        Ok(Output {
            ended,
            stdout: read(stdout),
            stderr: read(stderr),
        })
    })
}

/// Waits for the end of a process; `None` when it is not over in time.
fn wait(
    child: &mut Child,
    began: Instant,
    limit: Duration,
) -> io::Result<Option<std::process::ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (2 * pause).min(Duration::from_millis(20));
    }
}

fn end_group(child: &mut Child) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        // a group outlives its leader as long as a member does; without members this fails
        if let Some(group) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.by_ref().take(MOST_OUTPUT_BYTES).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
    }
    kept
}
