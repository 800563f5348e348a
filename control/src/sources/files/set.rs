//! A set of manifests as one: its objects, each once, and every fault with its file and line.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::Refusal;
use crate::objects::fault::Fault;
use crate::objects::manifest::{Document, ManifestError, Read};
use crate::objects::{Key, Object};

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// A message about a line of a file. Sorted by file and line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    source: String,
    /// 0: the file as a whole.
    line: usize,
    text: String,
}

/// The objects of manifests.
#[derive(Debug, Default)]
pub struct Set {
    /// Each with the document it was.
    pub objects: Vec<(Document, Object)>,
    /// Documents that are no object, or one that was there before.
    pub faults: Vec<Diagnostic>,
}

impl Set {
    /// Checks the shape of everything that was read.
    pub fn new(read: Read) -> Set {
        let mut set = Set { objects: Vec::new(), faults: read.errors.iter().map(Diagnostic::unread).collect() };
        // The index of each object in `objects`.
        let mut first: BTreeMap<Key, usize> = BTreeMap::new();
        for document in read.documents {
            let object = match Object::from_value(&document.value, DEFAULT_NAMESPACE) {
                Ok(object) => object,
                Err(faults) => {
                    set.faults.extend(faults.iter().map(|fault| Diagnostic::fault(&document, fault)));
                    continue;
                }
            };
            // One with a name to be generated is another object each time.
            let known = first.get(&object.key()).filter(|_| !object.name().is_empty());
            if let Some((earlier, _)) = known.and_then(|&index| set.objects.get(index)) {
                set.faults.push(Diagnostic::twice(&document, &object.key(), earlier));
                continue;
            }
            first.insert(object.key(), set.objects.len());
            set.objects.push((document, object));
        }
        set
    }

    /// What the cluster refused, of writes that were the objects in their order.
    pub fn refused(&self, refusals: &[Refusal]) -> Vec<Diagnostic> {
        let told = |refusal: &Refusal| match self.objects.get(refusal.index) {
            // A write beyond the objects stands in no file.
            None => vec![Diagnostic { source: refusal.key.to_string(), line: 0, text: refusal.message.clone() }],
            Some((document, _)) if refusal.faults.is_empty() => vec![Diagnostic::new(document, "", &refusal.message)],
            Some((document, _)) => refusal.faults.iter().map(|fault| Diagnostic::fault(document, fault)).collect(),
        };
        refusals.iter().flat_map(told).collect()
    }
}

impl Diagnostic {
    /// At a field of a document.
    pub fn new(document: &Document, field: &str, message: &str) -> Diagnostic {
        let text = if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") };
        Diagnostic { source: document.source().to_owned(), line: document.line_of(field), text }
    }

    /// The same, as a warning.
    pub fn warning(self) -> Diagnostic {
        Diagnostic { text: format!("warning: {}", self.text), ..self }
    }

    fn fault(document: &Document, Fault { field, message, .. }: &Fault) -> Diagnostic {
        Diagnostic::new(document, field, message)
    }

    fn unread(error: &ManifestError) -> Diagnostic {
        Diagnostic { source: error.source().to_owned(), line: error.line(), text: error.message().to_owned() }
    }

    /// An object that occurs twice: one of the two would be lost.
    fn twice(document: &Document, key: &Key, first: &Document) -> Diagnostic {
        let first = format!("{}:{}", first.source(), first.line_of("metadata.name"));
        Diagnostic::new(
            document,
            "metadata.name",
            &format!("Duplicate value: {:?}: {key} is also at {first}", key.name),
        )
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.source, self.text),
            line => write!(f, "{}:{line}: {}", self.source, self.text),
        }
    }
}
