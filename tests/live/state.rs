//! The state file of a running gateway: damaged, on a full disk, and restored.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pollgate::lab::traffic::ask_tcp;

use crate::live::process::Place;
use crate::live::support::{BACKENDS, CLUSTER_IP, PATIENCE, answered_by, at, servers};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        a_damaged_state_is_refused_left_alone_and_set_aside_only_when_asked,
        a_full_disk_refuses_writes_with_the_reason_and_takes_them_again;
}

fn a_damaged_state_is_refused_left_alone_and_set_aside_only_when_asked() {
    let place = Place::new();
    let process = place.start();
    place.apply_guide();
    process.signal(libc::SIGTERM);
    process.wait();
    let path = place.path().join("state.db");
    let (backup, mut bytes) = (place.path().join("backup.db"), fs::read(&path).expect("the state"));
    fs::copy(&path, &backup).expect("a backup");
    // Everything that might be a page of objects.
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    fs::write(&path, &bytes).expect("damaged");

    let told = place.refused(place.run_command("gateway.yaml"));
    assert!(told.contains("state.db: damaged: ") && told.contains("--set-aside-damaged"), "{told}");
    assert_eq!(fs::read(&path).expect("there"), bytes, "left as it was");

    let process = place.start_with(&["--set-aside-damaged"]);
    assert!(place.log().contains("renamed to ") && place.log().contains("state.db.damaged-1"), "{}", place.log());
    assert_eq!(fs::read(place.path().join("state.db.damaged-1")).expect("kept"), bytes);
    let services = String::from_utf8(place.cli(&["get", "services", "-A"]).stdout).expect("text");
    assert!(!services.contains("backend-service"), "it starts without: {services}");
    process.signal(libc::SIGTERM);
    process.wait();

    let _servers = servers(&place.network);
    fs::copy(&backup, &path).expect("restored");
    let _process = place.start_with(&["--set-aside-damaged"]);
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
}

fn a_full_disk_refuses_writes_with_the_reason_and_takes_them_again() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let disk = Tmpfs::mount(&place.path().join("disk"), "2m");
    let config = fs::read_to_string(place.path().join("gateway.yaml")).expect("the configuration");
    place.write("gateway.yaml", &config.replace("/state.db", "/disk/state.db"));
    let process = place.start();
    place.apply_guide();

    let refused = (0..1000).find_map(|number| {
        let output = place.cli(&["apply", "-f", &place.write("big.yaml", &big(number))]);
        (output.status.code() != Some(0)).then(|| String::from_utf8(output.stderr).expect("text"))
    });
    let told = refused.expect("2 MB do not hold 1000 objects of 100 kB");
    assert!(told.contains("state.db: could not be written: ") && told.contains("No space left"), "{told}");
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    assert!(place.done(&["get", "services"]).contains("backend-service"), "reads go on");

    disk.resize("64m");
    let small = "apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {ports: [{port: 80}]}\n";
    let small = place.write("small.yaml", small);
    until("it is not refused any more", || place.cli(&["apply", "-f", &small]).status.code() == Some(0));
    assert!(place.log().contains("the disk works again"), "{}", place.log());
    // What was taken is there after a kill, too.
    process.signal(libc::SIGKILL);
    process.wait();
    let _process = place.start();
    assert!(place.done(&["get", "services"]).contains("later"));
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
}

/// A Service of 100 kB.
fn big(number: u32) -> String {
    let text = "x".repeat(100_000);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: big-{number}, annotations: {{text: {text}}}}}\nspec: {{ports: \
         [{{port: 80}}]}}\n"
    )
}

/// A small disk, seen by this thread and what it starts: the mount namespace is the thread's own, so the mount goes with it.
struct Tmpfs(CString);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Tmpfs {
        fs::create_dir(at).expect("a directory");
        // SAFETY: no pointers.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(unshared, 0, "unshare: {}", std::io::Error::last_os_error());
        let (none, root, private) = (c"none".as_ptr(), c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: strings that end with a zero; the others may be null where only the propagation changes (mount(2)).
        let private = unsafe { libc::mount(none, root, std::ptr::null(), private, std::ptr::null()) };
        assert_eq!(private, 0, "mount: {}", std::io::Error::last_os_error());
        let disk = Tmpfs(CString::new(at.as_os_str().as_bytes()).expect("a path"));
        disk.call(size, 0);
        disk
    }

    fn resize(&self, size: &str) {
        self.call(size, libc::MS_REMOUNT);
    }

    fn call(&self, size: &str, flags: libc::c_ulong) {
        let options = CString::new(format!("size={size}")).expect("no zero");
        // SAFETY: four strings that end with a zero and live beyond the call.
        let mounted = unsafe {
            libc::mount(c"tmpfs".as_ptr(), self.0.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast())
        };
        assert_eq!(mounted, 0, "mount: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // SAFETY: a string that ends with a zero.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}
