//! Runs every test in a process of its own, and reports a test whose needs are not met as ignored, with the reason.
//!
//! ```text
//!  this process                          the same program again, with POLLGATE_TEST=name
//!    needs met? ── no ─▶ ignored
//!       └ yes ─▶ process group, TMPDIR ──▶ network namespace, if the test is to be in a lab ──▶ its function
//!    group killed, TMPDIR removed ◀─────── end, panic, or time limit
//! ```
//!
//! So whatever a test leaves behind (processes, namespaces, files) ends with it, also if it fails. libtest-mimic reads the
//! command line and reports the results, as the standard harness would:
//!
//! * `--include-ignored` runs everything, and a test whose needs are not met fails;
//! * the tests that no ordinary user can run are marked `[root]`: `--skip '[root]'` leaves them out;
//! * `--nocapture` and `--show-output` show what passing tests print.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::{env, fmt, io};

use libtest_mimic::{Arguments, Completion, Failed, FormatSetting, Trial};
use pollgate::lab::{self, Namespace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, set_parent_process_death_signal};

use super::needs::Need;

/// Set in the process of a test: the test's name.
const CHILD: &str = "POLLGATE_TEST";
/// A test that takes longer than this hangs.
const LIMIT: Timespec = Timespec { tv_sec: 600, tv_nsec: 0 };

/// A test, as [`tests!`] lists it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// With its path: `system::live::bulk::name`.
    pub(crate) path: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) body: fn(),
}

/// Lists the tests of a module by what they need, as `TESTS`. A test that is not listed is dead code, which clippy reports.
macro_rules! tests {
    ($($needs:expr => $($test:ident),+ $(,)?;)+) => {
        pub(crate) const TESTS: &[$crate::shared::harness::Test] = &[$($($crate::shared::harness::Test {
            path: concat!(module_path!(), "::", stringify!($test)),
            needs: &$needs,
            body: $test,
        },)+)+];
    };
}
pub(crate) use tests;

impl Test {
    /// Without the name of the target, as the standard harness prints it.
    fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, name)| name)
    }
}

/// The whole of `main`.
pub(crate) fn main(tests: Vec<Test>) -> ExitCode {
    if let Some(name) = env::var_os(CHILD) {
        run_here(&tests, &name);
        return ExitCode::SUCCESS;
    }
    let args = Arguments::from_args();
    let mut left_out = LeftOut::default();
    let trials = tests.into_iter().map(|test| trial(test, &args, &mut left_out)).collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if !args.list && args.format != Some(FormatSetting::Json) {
        print!("{left_out}");
    }
    conclusion.exit_code()
}

/// The test as libtest-mimic knows it: to be run, or with the reason why it cannot be.
fn trial(test: Test, args: &Arguments, left_out: &mut LeftOut) -> Trial {
    let kind = if test.needs.iter().any(Need::is_for_root_only) { "root" } else { "" };
    let show = Show::asked_for(args);
    let runs = Trial::ignorable_test(test.name(), move || run_in_child(test, show)).with_kind(kind);
    // Finding out takes a moment, so only for tests that are asked for.
    let is_listed = args.list || args.ignored;
    if !is_listed && args.is_filtered_out(&runs) {
        return runs;
    }
    let missing: Vec<_> = test.needs.iter().filter_map(|need| Some((*need, need.missing()?))).collect();
    let Some((_, why)) = missing.first() else { return runs };
    let reason = why.clone();
    if args.ignored || args.include_ignored {
        return Trial::test(test.name(), move || Err(reason.into())).with_kind(kind).with_ignored_flag(is_listed);
    }
    left_out.add(test, missing);
    let ignored = move || Ok(Completion::ignored_with(reason));
    Trial::ignorable_test(test.name(), ignored).with_kind(kind).with_ignored_flag(is_listed)
}

/// Which tests' output is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Failed,
    All,
    AtOnce,
}

impl Show {
    fn asked_for(args: &Arguments) -> Show {
        match (args.nocapture, args.show_output) {
            (true, _) => Show::AtOnce,
            (false, true) => Show::All,
            (false, false) => Show::Failed,
        }
    }
}

/// The test, in a process that leaves nothing behind.
fn run_in_child(test: Test, show: Show) -> Result<Completion, Failed> {
    // Other users, as whom some tests run programs, may pass through.
    let files = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir()?;
    let mut output = tempfile::tempfile()?;
    let mut command = Command::new(env::current_exe()?);
    command.env(CHILD, test.name()).env("TMPDIR", files.path()).stdin(Stdio::null()).process_group(0);
    if show != Show::AtOnce {
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    }
    let status = ended(command.spawn()?)?;
    let mut text = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    match status {
        Some(status) if status.success() => {
            if show == Show::All && !text.is_empty() {
                println!("\n---- {} ----\n{text}", test.name());
            }
            Ok(Completion::Completed)
        }
        Some(status) => Err(format!("{text}\n{status}").into()),
        None => Err(format!("{text}\nnot ended after {} s", LIMIT.tv_sec).into()),
    }
}

/// Waits for the end of a test's process, and ends everything that it has started. `None`: at the time limit.
fn ended(mut child: Child) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(&child);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let is_over = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&LIMIT))? > 0;
    // It has not been waited for, so the number is still its own.
    kill_process_group(pid, Signal::KILL)?;
    let status = child.wait()?;
    Ok(is_over.then_some(status))
}

/// In the process of a test.
fn run_here(tests: &[Test], name: &OsStr) {
    let test = tests.iter().find(|test| test.name() == name).expect("a test of this name");
    let namespace = test.needs.contains(&Need::Lab).then(|| {
        lab::enter().unwrap_or_else(|why| panic!("{why}"));
        // An empty one, so that not even a mistake reaches the machine's network.
        Namespace::new("test").expect("a namespace")
    });
    if let Some(namespace) = &namespace {
        namespace.enter().expect("entered");
    }
    // After that, which changes who we are and would undo it.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a signal when the harness is gone");
    (test.body)();
}

/// What is missing, with the modules of the tests that were not run because of it, and how many of each.
#[derive(Default)]
struct LeftOut(BTreeMap<(Need, String), BTreeMap<&'static str, usize>>);

impl LeftOut {
    fn add(&mut self, test: Test, missing: Vec<(Need, String)>) {
        let module = test.name().rsplit_once("::").map_or("", |(module, _)| module);
        for one in missing {
            *self.0.entry(one).or_default().entry(module).or_default() += 1;
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(f, "Not run, because something is missing here (`-- --include-ignored` makes that a failure):")?;
        for ((need, why), modules) in &self.0 {
            let modules: Vec<_> = modules.iter().map(|(module, count)| format!("{module} ({count})")).collect();
            writeln!(f, "\n  {}\n      missing: {why}\n      to get it: {}", modules.join(", "), need.remedy())?;
        }
        writeln!(f)
    }
}
