//! Who the process becomes: `run.user` and `run.group`, looked up where the system keeps its users.

use std::ffi::CString;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups, getresgid, getresuid, initgroups, setgroups,
    setresgid, setresuid,
};
use rustix::thread::{CapabilitySet, set_keep_capabilities};

use super::PrivilegesError;
use crate::config::Run;

/// A user and a group, with the user's other groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: Uid,
    pub(super) group: Gid,
    /// Its other groups; `None`: those of the process.
    groups: Option<Groups>,
    /// As configured, for messages.
    pub(super) label: String,
}

/// The supplementary groups of a configured user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Groups {
    /// The user's name, if it has one: the system finds its groups by it.
    name: Option<CString>,
    list: Vec<Gid>,
}

/// Who the process is.
#[derive(Clone, Debug)]
struct Ids {
    /// Real, effective and saved.
    users: [Uid; 3],
    groups: [Gid; 3],
    others: Vec<Gid>,
}

impl Ids {
    fn of_process() -> Result<Ids, PrivilegesError> {
        let failed = |error: nix::Error| PrivilegesError::System {
            doing: "reading this process's users and groups",
            source: error.into(),
        };
        let (users, groups) = (getresuid().map_err(failed)?, getresgid().map_err(failed)?);
        Ok(Ids {
            users: [users.real, users.effective, users.saved],
            groups: [groups.real, groups.effective, groups.saved],
            others: getgroups().map_err(failed)?,
        })
    }
}

impl Identity {
    /// The configured one; what is not configured is that of the process.
    pub(super) fn configured(run: &Run) -> Result<Identity, PrivilegesError> {
        let user = run.user.as_deref().map(find_user).transpose()?;
        let group = run.group.as_deref().map(find_group).transpose()?;
        let uid = user.as_ref().map_or_else(geteuid, |user| user.0);
        let gid = group.or_else(|| user.as_ref().and_then(|user| user.1)).unwrap_or_else(getegid);
        let label = run.user.clone().unwrap_or_else(|| uid.to_string());
        let groups = match user {
            Some((_, _, name)) => {
                let list = name.as_ref().and_then(|name| getgrouplist(name, gid).ok()).unwrap_or_default();
                Some(Groups { name, list })
            }
            // They are given up if that is possible.
            None => group.map(|_| Groups { name: None, list: getgroups().unwrap_or_default() }),
        };
        Ok(Identity { user: uid, group: gid, groups, label })
    }

    /// Whether the process is this already, and can become no other. A service manager may have seen to it.
    pub(super) fn is_current(&self) -> Result<bool, PrivilegesError> {
        Ok(self.is(&Ids::of_process()?))
    }

    fn is(&self, ids: &Ids) -> bool {
        ids.users == [self.user; 3] && ids.groups == [self.group; 3] && self.foreign_groups(ids).is_empty()
    }

    /// Supplementary groups of the process that this user is not in.
    fn foreign_groups(&self, ids: &Ids) -> Vec<Gid> {
        let Some(groups) = &self.groups else { return Vec::new() };
        let is_foreign = |group: &Gid| *group != self.group && !groups.list.contains(group);
        ids.others.iter().copied().filter(is_foreign).collect()
    }

    /// Why this process, with these capabilities, could not become it.
    pub(super) fn obstacle(&self, has: CapabilitySet) -> Result<Option<PrivilegesError>, PrivilegesError> {
        Ok(self.obstacle_of(has, &Ids::of_process()?))
    }

    fn obstacle_of(&self, has: CapabilitySet, ids: &Ids) -> Option<PrivilegesError> {
        // Without the capability, a process may still choose among the users and groups that it has (setresuid(2)).
        let is_refused = (!has.contains(CapabilitySet::SETUID) && !ids.users.contains(&self.user))
            || (!has.contains(CapabilitySet::SETGID) && !ids.groups.contains(&self.group));
        if is_refused {
            return Some(PrivilegesError::NotRoot { label: self.label.clone(), own: ids.users[1].as_raw() });
        }
        let foreign = self.foreign_groups(ids);
        let is_stuck = !foreign.is_empty() && !has.contains(CapabilitySet::SETGID);
        is_stuck.then(|| PrivilegesError::ForeignGroups {
            label: self.label.clone(),
            groups: foreign.iter().map(ToString::to_string).collect(),
        })
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
        let is_other = self.user != geteuid();
        let others = match &self.groups {
            Some(Groups { name: Some(name), .. }) => initgroups(name, self.group),
            Some(Groups { name: None, .. }) => setgroups(&[]),
            None => Ok(()),
        };
        // Who may not change them has none that are foreign.
        if let Err(error) = others
            && (is_other || !self.foreign_groups(&Ids::of_process()?).is_empty())
        {
            return Err(failed("setting its groups")(error));
        }
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
        assert!(configured(None, None).expect("this process").is(&of(user, group, &[])));
        assert!(configured(Some(&user.to_string()), Some(&group.to_string())).expect("numbers").is(&of(
            user,
            group,
            &[]
        )));
        let other = configured(Some("4294967000"), Some("4294967001")).expect("numbers");
        let none = Some(Groups { name: None, list: Vec::new() });
        assert_eq!((other.user.as_raw(), other.group.as_raw(), other.groups), (4_294_967_000, 4_294_967_001, none));
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

    fn of(user: Uid, group: Gid, others: &[Gid]) -> Ids {
        Ids { users: [user; 3], groups: [group; 3], others: others.to_vec() }
    }

    #[test]
    fn a_process_that_could_become_another_user_again_is_not_this_one() {
        let (user, group, root) = (Uid::from_raw(4_294_967_000), Gid::from_raw(4_294_967_001), Gid::from_raw(0));
        let identity = configured(Some("4294967000"), Some("4294967001")).expect("numbers");
        let own = of(user, group, &[group]);
        assert!(identity.is(&own));
        for at in 0..3 {
            let (mut by_user, mut by_group) = (own.clone(), own.clone());
            by_user.users[at] = Uid::from_raw(0);
            by_group.groups[at] = root;
            assert!(!identity.is(&by_user) && !identity.is(&by_group), "{at}");
            // It needs no capability to give that up.
            assert!(identity.obstacle_of(CapabilitySet::empty(), &by_user).is_none());
            assert!(identity.obstacle_of(CapabilitySet::empty(), &by_group).is_none());
        }
        let with_root = of(user, group, &[group, root]);
        assert!(!identity.is(&with_root));
        assert!(identity.obstacle_of(CapabilitySet::SETGID, &with_root).is_none());
        let told = identity.obstacle_of(CapabilitySet::empty(), &with_root).expect("an obstacle").to_string();
        assert!(told.starts_with("run.user: this process has groups of others than 4294967000: 0: start it"), "{told}");
        let unchanged = configured(None, None).expect("this process");
        assert!(unchanged.is(&of(geteuid(), getegid(), &[root])), "nothing is configured");
    }

    #[test]
    fn who_may_not_change_is_refused() {
        let other = configured(Some("4294967000"), None).expect("a number");
        let ids = Ids::of_process().expect("known");
        assert!(other.obstacle_of(CapabilitySet::SETUID | CapabilitySet::SETGID, &ids).is_none());
        let told = other.obstacle_of(CapabilitySet::NET_ADMIN, &ids).expect("an obstacle").to_string();
        assert!(told.contains("cannot become 4294967000"), "{told}");
    }
}
