//! The durable store: every object of the gateway in one file.
//!
//! What it is: a table of objects, each under a readable key and written as the JSON the API shows, and the revision
//! they are at. One transaction holds whole commits, so the file is always at the end of some write and never in the
//! middle of one.
//!
//! ```text
//! meta     "format"   → 1
//!          "revision" → 4711
//! objects  "v1/Service/default/web"                           → {"apiVersion":"v1","kind":"Service",…}
//!          "discovery.k8s.io/v1/EndpointSlice/default/web-x2k9q" → {…}
//! ```
//!
//! Endpoint slices that the controllers made are stored with the rest, though they could be computed again: a restart
//! then serves exactly what was served before, whatever a newer version's controllers would make of the same Pods.
//!
//! Why an embedded database and not a log of our own: it must survive `kill -9` and a torn page at every moment, and
//! redb's copy-on-write tree with checksummed pages is that, proven elsewhere. Why JSON and not a packed format: the
//! file is read once per start, by as many threads as there are CPUs, and an operator who has only the file can still
//! read it.
//!
//! **Damage.** Opening verifies the checksum of every page, because a damaged file must be found at the start and
//! not under traffic. A damaged file is left exactly as it is and the start is refused: a gateway that came up empty
//! would look alive and drop everything, and a supervisor that restarts it would hide that it ever held state.
//! [`Store::set_aside`] is the explicit way out. A new store appears under its name only once it is a whole database,
//! so an empty file under that name is damage too, never an invitation to start over.
//!
//! **A file that has become too large** is compacted (`Store::compact`): the pages of objects that are gone stay in the file, free
//! for new ones, and one large request may have needed a gigabyte of them. The disk thread does it at its start and after a
//! commit, when most of the file is free. It moves pages in transactions of its own, so a process that is killed meanwhile finds
//! the same objects.
//!
//! **A disk that fails** is different: full, or gone for a minute. Whether the current commit reached it is unknown, and
//! redb accepts no further one. [`Store::recover`] opens the file again and undoes what of the failed commits is in it,
//! because they were refused.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{fmt, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTableMetadata, StorageBackend, StorageError, TableDefinition,
};

use crate::cluster::{Change, Commit};
use crate::objects::{Key, Kind, Object};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The layout of the tables above. A file of a later layout is refused, not guessed at.
const FORMAT: u64 = 1;

/// The revision of an empty cluster. Not 0, which means "any" to clients of the API.
const FIRST_REVISION: u64 = 1;

/// The keys of Pods are from the first to before the second: `0` comes after `/`.
const PODS: (&str, &str) = ("v1/Pod/", "v1/Pod0");

/// A file of this size or less is never compacted.
const SMALL: u64 = 16 << 20;
/// How many times its objects a file may be. Copy-on-write alone takes three times; far above, so that a compaction is rare.
const SPARSE: u64 = 8;

/// Everything is read once, at the start, and kept in memory by the cluster: a large page cache would only hold it twice.
const CACHE_BYTES: usize = 16 << 20;

/// Objects that a thread decodes at a time.
const DECODED_TOGETHER: usize = 256;

/// Threads that decode, at most: beyond these one thread cannot read the file fast enough for them.
const DECODERS: usize = 8;

/// The open state file. One process holds it; the lock goes with the process.
pub struct Store {
    path: PathBuf,
    /// `None` while it could not be opened again.
    database: Option<Database>,
    open: Open,
    length: Length,
    size: Arc<Size>,
    /// The length that the last compaction left; it is not tried again for twice as much.
    compacted: u64,
}

/// Opens the same storage again.
type Open = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

/// The length of the storage.
type Length = Box<dyn Fn() -> io::Result<u64> + Send>;

/// How large the state file is, for those who only look at it.
#[derive(Debug, Default)]
pub struct Size {
    file: AtomicU64,
    objects: AtomicU64,
}

impl Size {
    /// Bytes of the file, when it was written last.
    pub fn file(&self) -> u64 {
        self.file.load(Relaxed)
    }

    /// Bytes of the objects in it, their keys included.
    pub fn objects(&self) -> u64 {
        self.objects.load(Relaxed)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a state file held.
#[derive(Debug, Default)]
pub struct Restored {
    /// The objects, in no particular order.
    pub objects: Vec<Object>,
    /// The revision of the last commit on disk; 1 in a new file.
    pub revision: u64,
    /// When the file was made; if that is not known, when its oldest object was.
    pub created: Timestamp,
}

/// Why the state file could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{}: in use by another pollgate; stop that one, or give this one its own `api.state`", path.display())]
    InUse {
        /// The state file.
        path: PathBuf,
    },
    /// It is not what pollgate wrote. The file was not touched.
    #[error(
        "{path}: damaged: {reason}; the file was not changed. Replace it with a backup, or start without it: \
         `pollgate run --set-aside-damaged` renames it to {path}.damaged-1 and starts empty; then apply your \
         manifests again",
        path = path.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later pollgate wrote it.
    #[error(
        "{}: written by a newer pollgate (layout {found}, this one supports {FORMAT}); run that version, or move the \
         file away",
        path.display()
    )]
    Newer {
        /// The state file.
        path: PathBuf,
        /// The layout it has.
        found: u64,
    },
    /// The file system refused.
    #[error("{}: {source}; `api.state` must name a file that this user may create and write", path.display())]
    Unusable {
        /// The state file or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A commit did not reach the disk, or may not have.
    #[error(
        "{}: could not be written: {reason}; nothing was changed. Writes work again once the disk does",
        path.display()
    )]
    Write {
        /// The state file.
        path: PathBuf,
        /// What the disk said.
        reason: String,
    },
}

impl Store {
    /// Opens the state file, or creates it and its directory, and reads all of it.
    ///
    /// Reads and verifies every page, so the time grows with the file: a fraction of a second for 100 000 objects.
    ///
    /// # Errors
    /// Any [`StoreError`] but [`StoreError::Write`]; an existing file is as it was.
    pub fn open(path: &Path) -> Result<(Self, Restored), StoreError> {
        let (store, mut restored) = Self::open_without_pods(path)?;
        restored.objects.extend(store.pods()?);
        Ok((store, restored))
    }

    /// The same, but without reading the Pods: packets need none of them, and most objects may be Pods.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_without_pods(path: &Path) -> Result<(Self, Restored), StoreError> {
        let unusable = |source| StoreError::Unusable { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) if found.len() == 0 => Err(damaged(path, "it is empty")),
            Ok(_) => Self::open_existing(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(unusable)?;
                Self::open_existing(path)
            }
            Err(error) => Err(unusable(error)),
        }
    }

    /// The Pods.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn pods(&self) -> Result<Vec<Object>, StoreError> {
        let Some(database) = &self.database else {
            return Err(self.unwritten("it is not open"));
        };
        let (first, end) = PODS;
        read_objects(database, &[(Included(first), Excluded(end))]).map_err(|reason| damaged(&self.path, reason))
    }

    /// Renames a damaged state file to the first free `PATH.damaged-N` and says which, so that the next
    /// [`Store::open`] starts empty. Only on an operator's word.
    ///
    /// # Errors
    /// What the file system said.
    pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
        for n in 1..=u32::MAX {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".damaged-{n}"));
            let aside = PathBuf::from(name);
            // link + unlink, because rename would silently overwrite an earlier one.
            match fs::hard_link(path, &aside) {
                Ok(()) => {
                    fs::remove_file(path)?;
                    sync_directory(path)?;
                    return Ok(aside);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes commits durable, all in one transaction and one sync: on disk when this returns `Ok`.
    ///
    /// # Errors
    /// [`StoreError::Write`]: the commits may or may not be in the file, and the store takes no further ones before
    /// [`Store::recover`].
    pub fn commit(&mut self, commits: &[Arc<Commit>]) -> Result<(), StoreError> {
        let Some(last) = commits.last() else {
            return Ok(());
        };
        let Some(database) = &self.database else {
            return Err(self.unwritten("it is not open"));
        };
        let Changed { added, removed } =
            write(database, commits, last.revision).map_err(|error| self.unwritten(error))?;
        let objects = (self.size.objects() + added).saturating_sub(removed);
        self.size.objects.store(objects, Relaxed);
        self.note_length();
        Ok(())
    }

    /// How large the file is, now and later.
    pub fn size(&self) -> Arc<Size> {
        Arc::clone(&self.size)
    }

    /// Counts the bytes of all objects. Needed once: later commits add and subtract theirs.
    ///
    /// # Errors
    /// [`StoreError::Write`], if the file cannot be read.
    pub(crate) fn measure(&mut self) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Err(self.unwritten("it is not open"));
        };
        let stored = |database: &Database| -> Result<u64, redb::Error> {
            let transaction = database.begin_read()?;
            let objects = transaction.open_table(OBJECTS)?;
            Ok(objects.stats()?.stored_bytes())
        };
        let objects = stored(database).map_err(|error| self.unwritten(error))?;
        self.size.objects.store(objects, Relaxed);
        self.note_length();
        Ok(())
    }

    /// Whether most of the file is free.
    pub(crate) fn is_sparse(&self) -> bool {
        let length = self.size.file();
        length > SMALL && length > SPARSE * self.size.objects() && length > 2 * self.compacted
    }

    /// Moves what is in the file to its beginning, and cuts off the rest.
    ///
    /// # Errors
    /// [`StoreError::Write`]: the objects are as they were, and the store may need [`Store::recover`].
    pub(crate) fn compact(&mut self) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else {
            return Err(self.unwritten("it is not open"));
        };
        let compacted = database.compact();
        self.note_length();
        self.compacted = self.size.file();
        compacted.map(drop).map_err(|error| self.unwritten(error))
    }

    fn note_length(&self) {
        // One that cannot be read is as it was.
        if let Ok(length) = (self.length)() {
            self.size.file.store(length, Relaxed);
        }
    }

    /// Opens the file again after an error, and undoes what of the failed commits has reached it.
    ///
    /// # Errors
    /// That the disk still does not work, or that the file is another one by now. It may be tried again.
    pub fn recover(&mut self, failed: &[Arc<Commit>]) -> Result<(), StoreError> {
        // The old one holds the lock.
        self.database = None;
        let database = (self.open)()?;
        let Meta { revision, .. } = read_meta(&database).map_err(|error| damaged(&self.path, error))?;
        let known = failed.first().map(|first| first.revision.saturating_sub(1)).zip(failed.last());
        let is_ours = |revision| known.is_none_or(|(first, last)| (first..=last.revision).contains(&revision));
        if !revision.is_some_and(is_ours) {
            return Err(self.unwritten("it was replaced by another file"));
        }
        self.database = Some(database);
        let undone: Vec<_> = failed.iter().rev().map(|commit| Arc::new(commit.inverse())).collect();
        self.commit(&undone)?;
        self.measure()
    }

    fn open_existing(path: &Path) -> Result<(Self, Restored), StoreError> {
        let path = path.to_owned();
        let open: Open = {
            let path = path.clone();
            Box::new(move || open_file(&path))
        };
        let length: Length = {
            let path = path.clone();
            Box::new(move || fs::metadata(&path).map(|found| found.len()))
        };
        let database = open()?;
        let restored = load(&path, &database)?;
        let store = Self { path, database: Some(database), open, length, size: Arc::default(), compacted: 0 };
        store.note_length();
        Ok((store, restored))
    }

    fn unwritten(&self, reason: impl ToString) -> StoreError {
        StoreError::Write { path: self.path.clone(), reason: reason.to_string() }
    }

    /// An empty store on any storage, for tests of what a disk can do.
    #[cfg(test)]
    pub(crate) fn blank<B: StorageBackend>(backend: impl Fn() -> B + Send + Sync + 'static) -> Self {
        let path = PathBuf::from("memory");
        let backend = Arc::new(backend);
        let length: Length = {
            let backend = Arc::clone(&backend);
            Box::new(move || backend().len())
        };
        let open: Open = {
            let path = path.clone();
            Box::new(move || database(backend()).map_err(|error| open_error(&path, error)))
        };
        let database = open().expect("a working backend");
        initialise(&database).expect("a working backend");
        Self { path, database: Some(database), open, length, size: Arc::default(), compacted: 0 }
    }
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| StoreError::Unusable { path: path.to_owned(), source })?;
    FileBackend::new(file).and_then(database).map_err(|error| open_error(path, error))
}

/// Bytes of objects, keys included, that a transaction changes.
#[derive(Default)]
struct Changed {
    added: u64,
    removed: u64,
}

fn write(database: &Database, commits: &[Arc<Commit>], revision: u64) -> Result<Changed, redb::Error> {
    let transaction = database.begin_write()?;
    let mut changed = Changed::default();
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for change in commits.iter().flat_map(|commit| &commit.changes) {
            write_change(&mut objects, change, &mut changed)?;
        }
        transaction.open_table(META)?.insert("revision", revision)?;
    }
    transaction.commit()?;
    Ok(changed)
}

fn write_change(
    objects: &mut redb::Table<'_, &'static str, &'static [u8]>,
    change: &Change,
    changed: &mut Changed,
) -> Result<(), redb::Error> {
    let key = stored_key(&change.key);
    let size = |length: usize| (key.len() + length) as u64;
    let former = match &change.new {
        Some(object) => {
            let mut json = Vec::new();
            object.write_json(&mut json).map_err(|error| redb::Error::Io(error.into()))?;
            changed.added += size(json.len());
            objects.insert(key.as_str(), &*json)?
        }
        None => objects.remove(key.as_str())?,
    };
    changed.removed += former.map_or(0, |former| size(former.value().len()));
    Ok(())
}

/// Creates a complete, empty store at `path`, or leaves the one that another process created meanwhile.
///
/// Built under a name of its own and linked into place, so that a crash halfway leaves no half database.
fn create(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        make_directory(directory)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let unfinished = PathBuf::from(name);
    let made = create_under(&unfinished).and_then(|()| match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = fs::remove_file(&unfinished);
    made.and(removed).and_then(|()| sync_directory(path))
}

/// Makes a directory, and those above it, in which only its owner can replace files, whatever the umask.
pub fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn create_under(path: &Path) -> io::Result<()> {
    // Objects may reveal much about a cluster: readable by the gateway's user alone.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let backend = FileBackend::new(file).map_err(io::Error::other)?;
    let database = database(backend).map_err(io::Error::other)?;
    initialise(&database).map_err(io::Error::other)
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(META)?.insert("revision", FIRST_REVISION)?;
    transaction.open_table(META)?.insert("created", Timestamp::now().as_second().unsigned_abs())?;
    transaction.commit()?;
    Ok(())
}

fn database(backend: impl StorageBackend) -> Result<Database, DatabaseError> {
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        // Without this redb trusts a file that was closed cleanly, and may panic on one that was altered since.
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
}

/// The new name must be on disk too, or a power cut takes the file that holds an acknowledged write.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn load(path: &Path, database: &Database) -> Result<Restored, StoreError> {
    let Meta { format, revision, created } = read_meta(database).map_err(|error| damaged(path, error))?;
    match format {
        Some(FORMAT) => {}
        Some(found) => {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        None => return Err(damaged(path, "it is a database, but not one of pollgate")),
    }
    let Some(revision) = revision else {
        return Err(damaged(path, "it has no revision"));
    };
    let (pods, behind) = PODS;
    let others = [(Unbounded, Excluded(pods)), (Included(behind), Unbounded)];
    let objects = read_objects(database, &others).map_err(|reason| damaged(path, reason))?;
    let oldest =
        || objects.iter().filter_map(|object| object.metadata().creation_timestamp.clone()).map(|time| time.0).min();
    let created = created.and_then(|seconds| Timestamp::from_second(seconds.try_into().ok()?).ok()).or_else(oldest);
    Ok(Restored { objects, revision, created: created.unwrap_or_else(Timestamp::now) })
}

/// What is stored besides the objects.
#[derive(Default)]
struct Meta {
    format: Option<u64>,
    revision: Option<u64>,
    /// Seconds; a state of an earlier version has none.
    created: Option<u64>,
}

fn read_meta(database: &Database) -> Result<Meta, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Meta::default()),
        meta => meta?,
    };
    let value = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|value| value.value()));
    Ok(Meta { format: value("format")?, revision: value("revision")?, created: value("created")? })
}

/// An object as it is stored: its key, and its JSON.
type Stored = (String, Vec<u8>);

/// Keys from one to another.
type Keys<'a> = (Bound<&'a str>, Bound<&'a str>);

/// One thread reads, the others decode: decoding takes ten times as long.
fn read_objects(database: &Database, keys: &[Keys<'_>]) -> Result<Vec<Object>, String> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(DECODERS);
    let (batches, queue) = bounded(threads * 2);
    let (read, decoded) = thread::scope(|scope| {
        let start = |queue: Receiver<_>| scope.spawn(move || decode(&queue));
        let decoders: Vec<_> = (0..threads).map(|_| start(queue.clone())).collect();
        // Theirs are the only ends now: reading stops where none of them goes on.
        drop(queue);
        let read = read_batches(database, keys, batches);
        let joined = decoders.into_iter().map(|decoder| decoder.join());
        (read, joined.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>())
    });
    let mut batches = Vec::new();
    for decoded in decoded {
        batches.extend(decoded?);
    }
    read.map_err(|error| error.to_string())?;
    batches.sort_unstable_by_key(|(number, _)| *number);
    Ok(batches.into_iter().flat_map(|(_, objects)| objects).collect())
}

/// Hands out what is under these keys, in numbered batches.
fn read_batches(
    database: &Database,
    keys: &[Keys<'_>],
    batches: Sender<(usize, Vec<Stored>)>,
) -> Result<(), redb::Error> {
    let table = database.begin_read()?.open_table(OBJECTS)?;
    let ranges = keys.iter().map(|keys| table.range::<&str>(*keys)).collect::<Result<Vec<_>, _>>()?;
    let mut entries = ranges.into_iter().flatten();
    for number in 0.. {
        let mut batch = Vec::with_capacity(DECODED_TOGETHER);
        for entry in entries.by_ref().take(DECODED_TOGETHER) {
            let (key, value) = entry?;
            batch.push((key.value().to_owned(), value.value().to_owned()));
        }
        if batch.is_empty() || batches.send((number, batch)).is_err() {
            break;
        }
    }
    Ok(())
}

fn decode(queue: &Receiver<(usize, Vec<Stored>)>) -> Result<Vec<(usize, Vec<Object>)>, String> {
    let one = |(key, bytes): Stored| read_object(&key, &bytes).map_err(|error| format!("object {key}: {error}"));
    let batch = |(number, batch): (usize, Vec<Stored>)| {
        let objects: Result<Vec<Object>, String> = batch.into_iter().map(one).collect();
        Ok((number, objects?))
    };
    queue.iter().map(batch).collect()
}

fn read_object(key: &str, bytes: &[u8]) -> Result<Object, String> {
    let kind = key.rsplit('/').nth(2).and_then(Kind::from_name).ok_or("its kind is unknown to pollgate")?;
    let object = Object::from_stored(kind, bytes).map_err(|error| error.to_string())?;
    let found = stored_key(&object.key());
    if found != key {
        return Err(format!("it holds {found}"));
    }
    Ok(object)
}

/// `apiVersion/Kind/namespace/name`; names and namespaces hold no slash, so it is unambiguous.
fn stored_key(key: &Key) -> String {
    format!("{}/{}/{}/{}", key.kind.api_version(), key.kind.name(), key.namespace, key.name)
}

fn damaged(path: &Path, reason: impl ToString) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::InUse { path: path.to_owned() }
        }
        DatabaseError::Storage(StorageError::Io(source)) if !tells_damage(&source) => {
            StoreError::Unusable { path: path.to_owned(), source }
        }
        other => damaged(path, other),
    }
}

/// redb reports a foreign file as `InvalidData` and a truncated one as `UnexpectedEof`.
fn tells_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// A disk that can hang and fail, for tests.
#[cfg(test)]
pub(crate) mod faulty {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use redb::backends::InMemoryBackend;

    use super::*;

    /// A store on such a disk, and the hand on it.
    pub(crate) fn store() -> (Store, Arc<Disk>) {
        let disk = Arc::new(Disk { memory: InMemoryBackend::new(), health: Mutex::default(), changed: Condvar::new() });
        let again = Arc::clone(&disk);
        (Store::blank(move || Handle(Arc::clone(&again))), disk)
    }

    /// The names of the Services on a disk that is no longer open.
    pub(crate) fn names(disk: &Arc<Disk>) -> Vec<String> {
        let database = database(Handle(Arc::clone(disk))).expect("a whole file");
        let objects = read_objects(&database, &[(Unbounded, Unbounded)]).expect("objects");
        let services = objects.iter().filter(|object| object.kind() == Kind::Service);
        services.map(|object| object.name().to_owned()).collect()
    }

    #[derive(Debug)]
    pub(crate) struct Disk {
        memory: InMemoryBackend,
        health: Mutex<Health>,
        changed: Condvar,
    }

    #[derive(Debug, Default)]
    struct Health {
        state: State,
        /// Operations that have failed.
        failures: u32,
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum State {
        #[default]
        Works,
        Hangs,
        Fails,
    }

    impl Disk {
        pub(crate) fn set(&self, state: State) {
            self.health.lock().expect("no panic holds it").state = state;
            self.changed.notify_all();
        }

        /// Waits until one more operation has failed.
        pub(crate) fn wait_for_failure(&self, patience: Duration) {
            let health = self.health.lock().expect("no panic holds it");
            let before = health.failures;
            let wait = self.changed.wait_timeout_while(health, patience, |health| health.failures == before);
            let timed_out = wait.expect("no panic holds it").1.timed_out();
            assert!(!timed_out, "no operation failed within {patience:?}");
        }

        fn ready(&self) -> io::Result<()> {
            let health = self.health.lock().expect("no panic holds it");
            let hangs = |health: &mut Health| health.state == State::Hangs;
            let mut health = self.changed.wait_while(health, hangs).expect("no panic holds it");
            if health.state != State::Fails {
                return Ok(());
            }
            health.failures += 1;
            self.changed.notify_all();
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }

    #[derive(Debug)]
    struct Handle(Arc<Disk>);

    impl StorageBackend for Handle {
        fn len(&self) -> io::Result<u64> {
            self.0.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.ready()?;
            self.0.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.memory.write(offset, data)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(name: &str, ip: &str) -> Object {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"podIP": ip},
        });
        Object::from_value(&value, "").expect("a pod")
    }

    fn commit(revision: u64, key: Key, new: Option<Object>) -> Arc<Commit> {
        let change = Change { key: key.clone(), old: None, new: new.map(Arc::new) };
        Arc::new(Commit { revision, changes: vec![change], written: vec![key] })
    }

    fn put(revision: u64, object: Object) -> Arc<Commit> {
        commit(revision, object.key(), Some(object))
    }

    /// A closed state file with 200 Pods at revision 201.
    fn filled(directory: &Path) -> PathBuf {
        let path = directory.join("state.db");
        let (mut store, _) = Store::open(&path).expect("a new file");
        let commits: Vec<_> =
            (0..200_u8).map(|n| put(u64::from(n) + 2, pod(&format!("p{n}"), &format!("10.0.0.{n}")))).collect();
        store.commit(&commits).expect("a working disk");
        path
    }

    #[test]
    fn a_new_file_is_whole_empty_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b/state.db");
        let (_store, restored) = Store::open(&path).expect("a new file");
        assert_eq!((restored.objects.len(), restored.revision), (0, 1));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().expect("a parent")).expect("readable").count(), 1, "nothing left over");
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        let (mut store, _) = Store::open(&path).expect("a new file");
        store.commit(&[put(2, pod("a", "10.0.0.1")), put(3, pod("b", "10.0.0.2"))]).expect("a working disk");
        store.commit(&[put(4, pod("a", "10.0.0.3")), commit(5, pod("b", "").key(), None)]).expect("a working disk");
        drop(store);
        let (_store, restored) = Store::open(&path).expect("the file");
        assert_eq!((restored.objects, restored.revision), (vec![pod("a", "10.0.0.3")], 5));
    }

    #[test]
    fn pods_are_read_apart_and_nothing_else_is_with_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = filled(directory.path());
        let named =
            |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "zz", "namespace": "default"}});
        let others: Vec<_> = ["Node", "Service", "Namespace", "Endpoints"]
            .into_iter()
            .zip(202..)
            .map(|(kind, revision)| put(revision, Object::from_value(&named(kind), "default").expect("an object")))
            .collect();
        Store::open(&path).expect("the file").0.commit(&others).expect("a working disk");
        let (store, restored) = Store::open_without_pods(&path).expect("the file");
        let pods = store.pods().expect("whole");
        assert_eq!((restored.objects.len(), restored.revision, pods.len()), (4, 205, 200));
        assert!(restored.objects.iter().all(|object| object.kind() != Kind::Pod));
        assert!(pods.iter().all(|object| object.kind() == Kind::Pod));
        drop(store);
        assert_eq!(Store::open(&path).expect("the file").1.objects.len(), 204);
    }

    #[test]
    fn a_second_process_is_told_the_file_is_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        let _first = Store::open(&path).expect("a new file");
        let error = Store::open(&path).expect_err("in use");
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        for content in ["", "#!/bin/sh\necho not a database\n", &"x".repeat(100_000)] {
            fs::write(&path, content).expect("writable");
            let error = Store::open(&path).expect_err("not ours");
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), content);
        }
    }

    #[test]
    fn a_file_of_a_later_layout_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = filled(directory.path());
        let (store, _) = Store::open(&path).expect("the file");
        let transaction = store.database.as_ref().expect("open").begin_write().expect("a transaction");
        transaction.open_table(META).expect("meta").insert("format", FORMAT + 1).expect("written");
        transaction.commit().expect("committed");
        drop(store);
        let error = Store::open(&path).expect_err("too new");
        assert!(matches!(error, StoreError::Newer { found, .. } if found == FORMAT + 1), "{error}");
    }

    #[test]
    fn a_truncated_file_is_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = filled(directory.path());
        let whole = fs::read(&path).expect("the file");
        for length in [1, 100, 4096, whole.len() / 2] {
            fs::write(&path, &whole[..length]).expect("writable");
            let error = Store::open(&path).expect_err("cut short");
            assert!(matches!(error, StoreError::Damaged { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_only_when_asked() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        for n in 1..=2 {
            fs::write(&path, format!("garbage {n}")).expect("writable");
            Store::open(&path).expect_err("damaged");
            let aside = Store::set_aside(&path).expect("renamed");
            assert_eq!(aside, directory.path().join(format!("state.db.damaged-{n}")));
            assert_eq!(fs::read_to_string(aside).expect("kept"), format!("garbage {n}"));
        }
        assert!(Store::open(&path).expect("a new file").1.objects.is_empty());
    }

    /// A ConfigMap of many kilobytes.
    fn map(index: usize) -> Object {
        let text = format!("{index}").repeat(100_000 / format!("{index}").len());
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{index}")}, "data": {"a": text}});
        Object::from_value(&value, "default").expect("an object")
    }

    fn put_all(revision: u64, objects: Vec<Object>) -> Arc<Commit> {
        let change = |object: Object| Change { key: object.key(), old: None, new: Some(Arc::new(object)) };
        Arc::new(Commit { revision, changes: objects.into_iter().map(change).collect(), written: Vec::new() })
    }

    /// Fills a store with large objects, and removes all but a few Pods among them.
    fn hollow(store: &mut Store, maps: usize) {
        store.measure().expect("readable");
        for (index, revision) in (0..4).zip(2..) {
            let mut objects: Vec<Object> = (0..maps).map(|map| self::map(index * maps + map)).collect();
            objects.push(pod(&format!("p{index}"), &format!("10.0.0.{index}")));
            store.commit(&[put_all(revision, objects)]).expect("written");
        }
        let gone = |index| Change { key: map(index).key(), old: None, new: None };
        let changes = (0..4 * maps).map(gone).collect();
        store.commit(&[Arc::new(Commit { revision: 6, changes, written: Vec::new() })]).expect("written");
    }

    const PODS_LEFT: [&str; 4] = ["p0", "p1", "p2", "p3"];

    fn names(objects: &[Object]) -> Vec<&str> {
        let mut names: Vec<&str> = objects.iter().map(Object::name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_whose_objects_are_gone_becomes_small() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.db");
        let (mut store, _) = Store::open(&path).expect("a new file");
        hollow(&mut store, 60);
        let (before, live) = (fs::metadata(&path).unwrap().len(), store.size().objects());
        assert!(before > SMALL && store.is_sparse(), "{before} bytes");
        assert!(live < 4 * 1024, "{live} bytes of four Pods");
        store.compact().expect("compacted");
        let after = fs::metadata(&path).unwrap().len();
        assert!(after < 2 << 20, "{before} bytes became {after}");
        assert_eq!((store.size().file(), store.is_sparse()), (after, false));
        // It goes on with the same objects, now and after a restart.
        store.commit(&[put(7, pod("p4", "10.0.0.4"))]).expect("written");
        assert!(store.size().objects() > live);
        drop(store);
        let (mut store, restored) = Store::open(&path).expect("the file");
        assert_eq!((names(&restored.objects), restored.revision), (vec!["p0", "p1", "p2", "p3", "p4"], 7));
        let counted = store.size();
        store.measure().expect("readable");
        assert!(counted.objects() > live);
    }

    #[test]
    fn what_commits_add_and_remove_is_what_a_count_finds() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut store, _) = Store::open(&directory.path().join("state.db")).expect("a new file");
        hollow(&mut store, 2);
        store.commit(&[put(7, pod("p0", "10.0.0.100")), put(8, map(1)), put(9, map(1))]).expect("written");
        let counted = store.size().objects();
        store.measure().expect("readable");
        assert_eq!(store.size().objects(), counted);
    }

    /// What a process that is killed leaves behind: each write before it, and none after. A power cut may also lose those
    /// since the last sync.
    #[test]
    fn a_compaction_that_is_killed_anywhere_loses_nothing() {
        let recorded = recording::Storage::default();
        let handle = recorded.clone();
        let mut store = Store::blank(move || handle.clone());
        hollow(&mut store, 3);
        recorded.start();
        store.compact().expect("compacted");
        let steps = recorded.steps();
        assert!(steps > 20, "{steps} steps");
        for step in 0..=steps {
            for unsynced in [true, false] {
                let left = recorded.after(step, unsynced);
                let database = database(left).unwrap_or_else(|error| panic!("step {step} of {steps}: {error}"));
                let objects = read_objects(&database, &[(Unbounded, Unbounded)]).expect("objects");
                assert_eq!(names(&objects), PODS_LEFT, "step {step} of {steps}");
                assert_eq!(read_meta(&database).expect("readable").revision, Some(6));
            }
        }
    }

    mod recording {
        //! Storage in memory that remembers how it was written.

        use std::sync::Mutex;

        use super::*;

        #[derive(Clone, Debug, Default)]
        pub(super) struct Storage(Arc<Mutex<State>>);

        #[derive(Clone, Debug, Default)]
        struct State {
            bytes: Vec<u8>,
            /// The bytes at the start, and the steps since then.
            recorded: Option<(Vec<u8>, Vec<Step>)>,
        }

        #[derive(Clone, Debug)]
        enum Step {
            Write(usize, Vec<u8>),
            Length(usize),
            Sync,
        }

        impl Step {
            fn apply(&self, bytes: &mut Vec<u8>) {
                match self {
                    Step::Write(offset, data) => bytes[*offset..offset + data.len()].copy_from_slice(data),
                    Step::Length(length) => bytes.resize(*length, 0),
                    Step::Sync => {}
                }
            }
        }

        impl Storage {
            pub(super) fn start(&self) {
                let mut state = self.0.lock().expect("no panic");
                state.recorded = Some((state.bytes.clone(), Vec::new()));
            }

            pub(super) fn steps(&self) -> usize {
                self.0.lock().expect("no panic").recorded.as_ref().map_or(0, |(_, steps)| steps.len())
            }

            /// The storage after so many steps, with or without those since the last sync.
            pub(super) fn after(&self, count: usize, unsynced: bool) -> Storage {
                let state = self.0.lock().expect("no panic");
                let (before, steps) = state.recorded.as_ref().expect("started");
                let synced = steps[..count].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
                let mut bytes = before.clone();
                steps[..if unsynced { count } else { synced }].iter().for_each(|step| step.apply(&mut bytes));
                Storage(Arc::new(Mutex::new(State { bytes, recorded: None })))
            }

            fn step(&self, step: Step) {
                let mut state = self.0.lock().expect("no panic");
                let State { bytes, recorded } = &mut *state;
                step.apply(bytes);
                recorded.iter_mut().for_each(|(_, steps)| steps.push(step.clone()));
            }
        }

        impl StorageBackend for Storage {
            fn len(&self) -> io::Result<u64> {
                Ok(self.0.lock().expect("no panic").bytes.len() as u64)
            }

            fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
                let from = usize::try_from(offset).expect("small");
                out.copy_from_slice(&self.0.lock().expect("no panic").bytes[from..from + out.len()]);
                Ok(())
            }

            fn set_len(&self, length: u64) -> io::Result<()> {
                self.step(Step::Length(usize::try_from(length).expect("small")));
                Ok(())
            }

            fn sync_data(&self) -> io::Result<()> {
                self.step(Step::Sync);
                Ok(())
            }

            fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
                self.step(Step::Write(usize::try_from(offset).expect("small"), data.to_vec()));
                Ok(())
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Bits that rot either do not matter or are reported; objects never disappear silently.
        #[test]
        fn bit_rot_is_found(at in 0.0..1.0_f64, mask in 1_u8..) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = filled(directory.path());
            let intact = Store::open(&path).expect("the file").1.objects;
            let mut bytes = fs::read(&path).expect("the file");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the length is below it")]
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] ^= mask;
            fs::write(&path, bytes).expect("writable");
            match Store::open(&path) {
                Ok((_, restored)) => prop_assert_eq!(restored.objects, intact),
                Err(error) => prop_assert!(matches!(error, StoreError::Damaged { .. }), "{}", error),
            }
        }
    }
}
