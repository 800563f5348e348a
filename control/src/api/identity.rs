//! The identity of the HTTPS listener: a certificate, its key, and the token that clients must send.
//!
//! ```text
//!   CA, whose key is then thrown away ──signs──▶ certificate, key ──▶ every handshake
//!    │                                           token ─────────────▶ every request
//!    └──────────────┬──────────────────────────────┘
//!                   ▼ over the Unix socket only
//!          `pollgate kubeconfig`: address, CA, token
//! ```
//!
//! All of it is created at the first start and kept in one file, mode 0600, so a kubeconfig survives restarts. It is one file
//! because a rename replaces it atomically: there is never a key beside another key's certificate.
//!
//! Why a CA for a single certificate: libraries differ in whether they accept a self-signed certificate as both a server's
//! certificate and an authority, and all of them accept a certificate signed by a CA. The CA's key is dropped as soon as it has signed:
//! an attacker who steals the file can impersonate this gateway, but no other server.
//!
//! At every start the certificate is verified as a client would, with a client's code, thirty days ahead. If it will have
//! expired by then, or is for another address than the configured one, a new one is created; the token stays. The file can be read
//! again while the listener serves ([`Identities::read_again`]).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::store::sync_directory;

const DAY: Duration = Duration::from_secs(86_400);
/// A kubeconfig lasts as long as its certificate, and a certificate for loopback needs no regular renewal.
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// A certificate that expires this soon is replaced at a start.
const MARGIN: Duration = Duration::from_secs(30 * 86_400);
/// Names a client may call the server by, beside its address: the last is what clients inside a cluster use.
const NAMES: [&str; 2] = ["localhost", "kubernetes.default.svc"];
/// The file has about 2000 bytes; a longer one is not ours.
const LONGEST_FILE: u64 = 64 << 10;

/// Why the listener has no certificate or token.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is not what pollgate wrote.
    #[error(
        "{path}: damaged: {reason}; it should hold the certificate and token of `api.listen`. Move it away and start \
         again: new ones are created, and `pollgate kubeconfig` prints them",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others have access to the secrets.
    #[error(
        "{path}: mode {mode:04o} gives other users access to the key and token of `api.listen`. If no other user can \
         have read it, `chmod 600 {path}`; otherwise delete it and start again: new ones are created",
        path = path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another user owns the file and can read its contents.
    #[error(
        "{path}: belongs to user {owner}, who can read the key and token of `api.listen` in it, but pollgate runs as \
         user {user}. Move it away and start again, or `chown {user} {path}` if both users are yours",
        path = path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// The file system refused.
    #[error(
        "{}: {source}; the certificate and token of `api.listen` are stored in this file, beside `api.state`",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A key, certificate or random bits could not be created.
    #[error("cannot create a certificate for `api.listen`: {0}")]
    Making(String),
}

/// The listener's certificate and key in rustls' form, and what a kubeconfig contains.
pub(super) struct Identity {
    pub(super) tls: Arc<ServerConfig>,
    /// PEM.
    pub(super) ca: String,
    /// PEM.
    certificate: String,
    pub(super) token: Token,
}

impl Identity {
    /// Reads the file at `path`. Writes it first if it does not exist, or its certificate is no longer valid.
    pub(super) fn load_or_make(path: &Path, address: IpAddr, now: SystemTime) -> Result<Self, IdentityError> {
        let Some(kept) = read(path)? else {
            let kept = Kept::new(address, Token::random()?, now)?;
            write(path, &kept)?;
            tracing::info!("{}: created a certificate and a token for api.listen", path.display());
            return kept.into_identity(path);
        };
        let damaged = |reason| IdentityError::Damaged { path: path.to_owned(), reason };
        let why = match kept.fitness(address, now).map_err(damaged)? {
            Fitness::Fit => return kept.into_identity(path),
            Fitness::Ending => "ends soon",
            Fitness::OtherAddress => "is for another address",
        };
        let token = Token::parse(&kept.token).ok_or_else(|| damaged("it has no token".to_owned()))?;
        let renewed = Kept::new(address, token, now)?;
        write(path, &renewed)?;
        tracing::warn!(
            "{}: the certificate of api.listen {why}; created a new one: clients need a new kubeconfig (`pollgate \
             kubeconfig`)",
            path.display()
        );
        renewed.into_identity(path)
    }
}

/// The identity in use, and the file that it is from.
pub(super) struct Identities {
    path: PathBuf,
    address: IpAddr,
    current: Mutex<Arc<Identity>>,
}

impl fmt::Debug for Identities {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Identities {
    /// Reads the file as [`Identity::load_or_make`].
    pub(super) fn load(path: PathBuf, address: IpAddr) -> Result<Self, IdentityError> {
        let current = Identity::load_or_make(&path, address, SystemTime::now())?;
        Ok(Self { path, address, current: Mutex::new(Arc::new(current)) })
    }

    /// The one in use.
    pub(super) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.lock())
    }

    /// Reads the file again: what is in it is used for every handshake and request from now on. Returns whether it differs. If
    /// there is a fault, nothing changes.
    pub(super) fn read_again(&self) -> Result<bool, IdentityError> {
        let new = Identity::load_or_make(&self.path, self.address, SystemTime::now())?;
        let mut current = self.lock();
        let differs = new.certificate != current.certificate || !new.token.is(current.token.reveal().as_bytes());
        *current = Arc::new(new);
        Ok(differs)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Identity>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 256 random bits as 64 hexadecimal digits. Never logged.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    fn random() -> Result<Self, IdentityError> {
        let mut bits = [0; 32];
        let filled = provider().secure_random.fill(&mut bits);
        filled.map_err(|_| IdentityError::Making("the kernel does not provide random bytes".to_owned()))?;
        Ok(Self(bits.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 64 && text.bytes().all(hexadecimal)).then(|| Self(text.to_owned()))
    }

    /// Whether it is the token that a client has sent. The comparison takes the same time wherever the first difference is.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        let token = self.0.as_bytes();
        let differences = token.iter().zip(shown).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
        differences == 0 && token.len() == shown.len()
    }

    /// The token as text.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// The file's content, as JSON.
#[derive(Serialize, Deserialize)]
struct Kept {
    ca: String,
    certificate: String,
    key: String,
    token: String,
}

/// How a client would judge the certificate.
enum Fitness {
    Fit,
    Ending,
    OtherAddress,
}

impl Kept {
    fn new(address: IpAddr, token: Token, now: SystemTime) -> Result<Self, IdentityError> {
        let (ca, certificate, key) = certify(address, now).map_err(|error| IdentityError::Making(error.to_string()))?;
        Ok(Self { ca, certificate, key, token: token.0 })
    }

    /// An error says what is wrong with it whatever the address and the time.
    fn fitness(&self, address: IpAddr, now: SystemTime) -> Result<Fitness, String> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ca)?).map_err(|error| format!("its CA: {error}"))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|error| format!("its CA: {error}"))?;
        let (server, then) = (ServerName::IpAddress(address.into()), since_epoch(now) + MARGIN);
        let certificate = certificate(&self.certificate)?;
        match verifier.verify_server_cert(&certificate, &[], &server, &[], UnixTime::since_unix_epoch(then)) {
            Ok(_) => Ok(Fitness::Fit),
            Err(rustls::Error::InvalidCertificate(error)) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Ok(Fitness::Ending),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Ok(Fitness::OtherAddress)
                }
                // The host's clock is behind; those of the clients may be right, and the host's will be corrected.
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Ok(Fitness::Fit),
                other => Err(format!("its certificate: {other}")),
            },
            Err(other) => Err(format!("its certificate: {other}")),
        }
    }

    fn into_identity(self, path: &Path) -> Result<Identity, IdentityError> {
        let damaged = |reason| IdentityError::Damaged { path: path.to_owned(), reason };
        let token = Token::parse(&self.token).ok_or_else(|| damaged("it has no token".to_owned()))?;
        let tls = self.server_config().map_err(damaged)?;
        Ok(Identity { tls: Arc::new(tls), ca: self.ca, certificate: self.certificate, token })
    }

    /// Fails if the key is not the certificate's.
    fn server_config(&self) -> Result<ServerConfig, String> {
        let told = |error: rustls::Error| error.to_string();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| format!("its key: {error}"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(told)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate(&self.certificate)?], key)
            .map_err(told)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Named, and not the process's default: that would be whichever part of the program set it first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("its certificate: {error}"))
}

/// A CA, a certificate for `address` signed by it, and the certificate's key, all in PEM.
fn certify(address: IpAddr, now: SystemTime) -> Result<(String, String, String), rcgen::Error> {
    let mut authority = parameters(Vec::new(), "pollgate CA", now)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?;

    let names = NAMES.into_iter().map(str::to_owned).chain([address.to_string()]);
    let mut server = parameters(names.collect(), "pollgate", now)?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok((ca.pem(), certificate.pem(), key.serialize_pem()))
}

fn parameters(names: Vec<String>, common_name: &str, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Clients' clocks may be a little behind this one.
    parameters.not_before = epoch + since_epoch(now).saturating_sub(DAY);
    parameters.not_after = epoch + since_epoch(now) + LIFETIME;
    Ok(parameters)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The contents of the file, if it exists; an error if another user owns it.
fn read(path: &Path) -> Result<Option<Kept>, IdentityError> {
    let unusable = |source| IdentityError::Unusable { path: path.to_owned(), source };
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    // Non-blocking, or a FIFO in its place would hold up the start.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    let found = file.metadata().map_err(unusable)?;
    if !found.is_file() {
        return Err(damaged("it is not a regular file".to_owned()));
    }
    let (owner, user) = (found.uid(), effective_user());
    if owner != user {
        return Err(IdentityError::NotOurs { path: path.to_owned(), owner, user });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_str(&text).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Writes the file atomically and durably.
fn write(path: &Path, kept: &Kept) -> Result<(), IdentityError> {
    let text = serde_json::to_string_pretty(kept).map_err(|error| IdentityError::Making(error.to_string()))?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // It may be left over from a process with this number that was killed.
    drop(fs::remove_file(&fresh));
    let written = write_new(&fresh, &text).and_then(|()| fs::rename(&fresh, path)).and_then(|()| sync_directory(path));
    written.map_err(|source| IdentityError::Unusable { path: path.to_owned(), source })
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("state.db.tls")
        }

        fn load_at(&self, address: IpAddr, now: SystemTime) -> Result<Identity, IdentityError> {
            Identity::load_or_make(&self.path(), address, now)
        }

        fn load(&self) -> Result<Identity, IdentityError> {
            self.load_at(HERE, SystemTime::now())
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).expect("the file")
        }

        fn kept(&self) -> Kept {
            serde_json::from_str(&self.text()).expect("whole")
        }

        /// What is said of the file with this in it, which must stay as it is.
        fn refused(&self, text: &str) -> String {
            fs::write(self.path(), text).expect("writable");
            let error = self.load().map(drop).expect_err("refused");
            assert_eq!(self.text(), text, "it was not left alone");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            error.to_string()
        }
    }

    #[test]
    fn it_is_made_once_and_for_its_user_alone() {
        let place = Place::new();
        let made = place.load().expect("made");
        assert_eq!(fs::metadata(place.path()).expect("there").mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(place.0.path()).expect("there").count(), 1, "nothing half written is left");
        let text = place.text();
        let again = place.load().expect("read");
        assert_eq!((again.ca, again.token.reveal()), (made.ca, made.token.reveal()));
        assert_eq!(place.text(), text);
        let other = Place::new();
        assert_ne!(other.load().expect("made").token.reveal(), made.token.reveal());
    }

    #[test]
    fn a_certificate_near_its_end_is_renewed_and_the_token_stays() {
        let place = Place::new();
        let start = SystemTime::now();
        let made = place.load_at(HERE, start).expect("made");
        let early = place.load_at(HERE, start + LIFETIME - 31 * DAY).expect("read");
        assert_eq!(early.ca, made.ca);
        let late = place.load_at(HERE, start + LIFETIME - 29 * DAY).expect("renewed");
        assert_ne!(late.ca, made.ca);
        assert_eq!(late.token.reveal(), made.token.reveal());
        let after = place.load_at(HERE, start + 2 * LIFETIME - 60 * DAY).expect("read");
        assert_eq!(after.ca, late.ca);
    }

    #[test]
    fn another_address_has_a_new_certificate_and_the_same_token() {
        let place = Place::new();
        let made = place.load().expect("made");
        let moved = place.load_at("::1".parse().expect("an address"), SystemTime::now()).expect("renewed");
        assert_ne!(moved.ca, made.ca);
        assert_eq!(moved.token.reveal(), made.token.reveal());
    }

    #[test]
    fn a_clock_that_is_behind_changes_nothing() {
        let place = Place::new();
        let made = place.load().expect("made");
        assert_eq!(place.load_at(HERE, UNIX_EPOCH).expect("read").ca, made.ca);
        // Made by such a clock, it has long ended when the clock is right.
        let place = Place::new();
        let made = place.load_at(HERE, UNIX_EPOCH).expect("made");
        assert_ne!(place.load().expect("renewed").ca, made.ca);
    }

    #[test]
    fn what_is_damaged_is_told_and_left_alone() {
        let (place, other) = (Place::new(), Place::new());
        place.load().expect("made");
        other.load().expect("made");
        let whole = place.text();
        for text in ["", "{}", "no JSON", &whole[..whole.len() / 2], &whole[..whole.len() - 3]] {
            let told = place.refused(text);
            assert!(told.contains("state.db.tls: damaged: ") && told.contains("Move it away"), "{told}");
        }
        let with = |change: fn(&mut Kept, Kept)| {
            let mut kept: Kept = serde_json::from_str(&whole).expect("whole");
            change(&mut kept, other.kept());
            place.refused(&serde_json::to_string(&kept).expect("JSON"))
        };
        let told = with(|kept, other| kept.ca = other.ca);
        assert!(told.contains("its certificate: "), "{told}");
        let told = with(|kept, other| kept.key = other.key);
        assert!(told.contains("damaged: "), "{told}");
        for change in [
            |kept: &mut Kept, _| kept.token.truncate(63),
            |kept: &mut Kept, _| kept.token = kept.token.to_uppercase() + "x",
            |kept: &mut Kept, _| kept.token.clear(),
        ] {
            let told = with(change);
            assert!(told.contains("it has no token"), "{told}");
        }
        with(|kept, _| kept.certificate = kept.certificate.replace('A', "B"));
        with(|kept, _| kept.certificate.clear());
        with(|kept, _| kept.key.clear());
    }

    #[test]
    fn a_file_that_others_may_open_is_refused() {
        let place = Place::new();
        place.load().expect("made");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).expect("ours");
            let error = place.load().map(drop).expect_err("refused");
            assert!(matches!(error, IdentityError::TooOpen { .. }), "{error}");
            assert!(error.to_string().contains(&format!("mode 0{mode:o} ")), "{error}");
        }
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o400)).expect("ours");
        place.load().expect("less than 0600 will do");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let place = Place::new();
        fs::create_dir(place.path()).expect("a directory");
        let told = place.load().map(drop).expect_err("refused").to_string();
        assert!(told.contains("it is not a regular file"), "{told}");
        let nowhere = place.0.path().join("missing/state.db.tls");
        let error = Identity::load_or_make(&nowhere, HERE, SystemTime::now()).map(drop).expect_err("refused");
        assert!(matches!(error, IdentityError::Unusable { .. }), "{error}");
    }

    #[test]
    fn tokens_are_equal_or_not() {
        let token = Token::random().expect("random bytes");
        let text = token.reveal().to_owned();
        assert!(token.is(text.as_bytes()));
        for wrong in ["", &text[..63], &format!("{text}0"), &text.replace(&text[..1], "g"), &text.to_uppercase()] {
            assert_eq!(token.is(wrong.as_bytes()), wrong == text, "{wrong:?}");
        }
        for place in 0..64 {
            let mut wrong = text.clone().into_bytes();
            wrong[place] ^= 1;
            assert!(!token.is(&wrong), "{place}");
        }
    }
}
