//! Who the process becomes: `run.user` and `run.group`, looked up where the system keeps its users.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, set_keep_capabilities};

use super::PrivilegesError;
use crate::config::Run;

/// A user and a group, with the user's other groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: Uid,
    pub(super) group: Gid,
    /// Its name, if it has one: it leads to its other groups.
    name: Option<CString>,
    /// As configured, for messages.
    pub(super) label: String,
}

impl Identity {
    /// The configured one; what is not configured is that of the process.
    pub(super) fn configured(run: &Run) -> Result<Identity, PrivilegesError> {
        let user = run.user.as_deref().map(find_user).transpose()?;
        let group = run.group.as_deref().map(find_group).transpose()?;
        let uid = user.as_ref().map_or_else(geteuid, |user| user.0);
        let gid = group.or_else(|| user.as_ref().and_then(|user| user.1)).unwrap_or_else(getegid);
        let label = run.user.clone().unwrap_or_else(|| uid.to_string());
        Ok(Identity { user: uid, group: gid, name: user.and_then(|user| user.2), label })
    }

    /// Whether the process is this already. A service manager may have seen to it.
    pub(super) fn is_current(&self) -> bool {
        self.user == geteuid() && self.group == getegid()
    }

    /// Why this process, with these capabilities, could not become it.
    pub(super) fn obstacle(&self, has: CapabilitySet) -> Option<PrivilegesError> {
        let needed = [
            (self.user != geteuid(), CapabilitySet::SETUID),
            (self.group != getegid() || self.user != geteuid(), CapabilitySet::SETGID),
        ];
        let is_lacking = needed.iter().any(|(is_needed, capability)| *is_needed && !has.contains(*capability));
        is_lacking.then(|| PrivilegesError::NotRoot { label: self.label.clone(), own: geteuid().as_raw() })
    }

    /// Becomes it, with the capabilities that the process has. They stay permitted, and have to be made effective again.
    ///
    /// These are libc's calls, which change all threads of the process.
    pub(super) fn enter(&self) -> Result<(), PrivilegesError> {
        let failed = |step: &'static str| {
            let label = self.label.clone();
            move |error: nix::Error| PrivilegesError::Become { label, step, source: error.into() }
        };
        set_keep_capabilities(true).map_err(super::system("keeping capabilities"))?;
        let others = match &self.name {
            Some(name) => initgroups(name, self.group),
            None => setgroups(&[]),
        };
        others.map_err(failed("setting its groups"))?;
        setresgid(self.group, self.group, self.group).map_err(failed("setting its group"))?;
        setresuid(self.user, self.user, self.user).map_err(failed("setting its user ID"))
    }
}

/// A user's number, its own group, and its name. One that is known by its number alone has neither.
fn find_user(text: &str) -> Result<(Uid, Option<Gid>, Option<CString>), PrivilegesError> {
    let number = text.parse::<u32>().ok().map(Uid::from_raw);
    let found = match number {
        Some(number) => User::from_uid(number),
        None => User::from_name(text),
    };
    match (found.ok().flatten(), number) {
        (Some(user), _) => Ok((user.uid, Some(user.gid), CString::new(user.name).ok())),
        (None, Some(number)) => Ok((number, None, None)),
        (None, None) => Err(PrivilegesError::Unknown { key: "run.user", what: "user", name: text.to_owned() }),
    }
}

fn find_group(text: &str) -> Result<Gid, PrivilegesError> {
    if let Ok(number) = text.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(text).ok().flatten().map(|group| group.gid);
    group.ok_or_else(|| PrivilegesError::Unknown { key: "run.group", what: "group", name: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(user: Option<&str>, group: Option<&str>) -> Result<Identity, String> {
        let run = Run { user: user.map(str::to_owned), group: group.map(str::to_owned), sandbox: true };
        Identity::configured(&run).map_err(|error| error.to_string())
    }

    #[test]
    fn users_and_groups_are_found_by_name_or_number() {
        let (user, group) = (geteuid(), getegid());
        assert!(configured(None, None).expect("this process").is_current());
        assert!(configured(Some(&user.to_string()), Some(&group.to_string())).expect("numbers").is_current());
        let other = configured(Some("4294967000"), Some("4294967001")).expect("numbers");
        assert_eq!((other.user.as_raw(), other.group.as_raw(), other.name), (4_294_967_000, 4_294_967_001, None));
        let nobody = configured(Some("4294967000"), None).expect("a number");
        assert_eq!(nobody.group, group, "one without an entry has no group of its own");
        assert_eq!(
            configured(Some("no-such-user"), None),
            Err("run.user: there is no user no-such-user: create it (useradd --system no-such-user), or correct the key".to_owned())
        );
        assert!(
            configured(None, Some("no-such-group")).is_err_and(|told| told.starts_with("run.group: there is no group"))
        );
    }

    #[test]
    fn who_may_not_change_is_refused() {
        let other = configured(Some("4294967000"), None).expect("a number");
        assert!(other.obstacle(CapabilitySet::SETUID | CapabilitySet::SETGID).is_none());
        let told = other.obstacle(CapabilitySet::NET_ADMIN).expect("an obstacle").to_string();
        assert!(told.contains("cannot become 4294967000"), "{told}");
    }
}
