//! A set of manifests as one: its objects, each once, and every fault with its file and line.

use std::collections::BTreeMap;
use std::fmt;

use pollgate_control::cluster::Refusal;
use pollgate_control::objects::fault::Fault;
use pollgate_control::objects::manifest::{Document, ManifestError, Read};
use pollgate_control::objects::{Key, Object};

/// Where objects go that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Something to be said of a place in a file. Sorted by the place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    source: String,
    /// 0: the file as a whole.
    line: usize,
    text: String,
}

/// The objects of manifests.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Each with the document it was.
    pub(crate) objects: Vec<(Document, Object)>,
    /// What is no object, or is one for the second time.
    pub(crate) faults: Vec<Told>,
}

impl Set {
    /// Looks at the shape of everything that was read.
    pub(crate) fn new(read: Read) -> Set {
        let mut set = Set { objects: Vec::new(), faults: read.errors.iter().map(Told::unread).collect() };
        // The place of each object in `objects`.
        let mut first: BTreeMap<Key, usize> = BTreeMap::new();
        for document in read.documents {
            let object = match Object::from_value(&document.value, DEFAULT_NAMESPACE) {
                Ok(object) => object,
                Err(faults) => {
                    set.faults.extend(faults.iter().map(|fault| Told::fault(&document, fault)));
                    continue;
                }
            };
            // One with a name to be generated is another object each time.
            let known = first.get(&object.key()).filter(|_| !object.name().is_empty());
            if let Some((earlier, _)) = known.and_then(|&index| set.objects.get(index)) {
                set.faults.push(Told::twice(&document, &object.key(), earlier));
                continue;
            }
            first.insert(object.key(), set.objects.len());
            set.objects.push((document, object));
        }
        set
    }

    /// What the cluster refused, of writes that were the objects in their order.
    pub(crate) fn refused(&self, refusals: &[Refusal]) -> Vec<Told> {
        let told = |refusal: &Refusal| match self.objects.get(refusal.index) {
            // A write beyond the objects has no place in a file.
            None => vec![Told { source: refusal.key.to_string(), line: 0, text: refusal.message.clone() }],
            Some((document, _)) if refusal.faults.is_empty() => vec![Told::new(document, "", &refusal.message)],
            Some((document, _)) => refusal.faults.iter().map(|fault| Told::fault(document, fault)).collect(),
        };
        refusals.iter().flat_map(told).collect()
    }
}

impl Told {
    /// At a field of a document.
    pub(crate) fn new(document: &Document, field: &str, message: &str) -> Told {
        let text = if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") };
        Told { source: document.source().to_owned(), line: document.line_of(field), text }
    }

    /// The same, said to be a warning.
    pub(crate) fn warning(self) -> Told {
        Told { text: format!("warning: {}", self.text), ..self }
    }

    fn fault(document: &Document, Fault { field, message, .. }: &Fault) -> Told {
        Told::new(document, field, message)
    }

    fn unread(error: &ManifestError) -> Told {
        Told { source: error.source().to_owned(), line: error.line(), text: error.message().to_owned() }
    }

    /// An object that is described a second time: one of the two would be lost.
    fn twice(document: &Document, key: &Key, first: &Document) -> Told {
        let place = format!("{}:{}", first.source(), first.line_of("metadata.name"));
        Told::new(document, "metadata.name", &format!("Duplicate value: {:?}: {key} is also at {place}", key.name))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.source, self.text),
            line => write!(f, "{}:{line}: {}", self.source, self.text),
        }
    }
}
