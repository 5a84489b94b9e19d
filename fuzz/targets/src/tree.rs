//! Values without their types, as serde sees them, and the names under which they occur.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{self, Serializer};

use crate::entropy::Entropy;

/// A value. Structs, tuples and sequences are lists; a newtype is what it holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// Unit, or an option that is none.
    Nothing,
    /// An option that is some.
    Something(Box<Tree>),
    /// True or false.
    Truth(bool),
    /// Any integer; one of 128 bits without sign keeps its bits.
    Number(i128),
    /// A string.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Fields or elements, in order.
    List(Vec<Tree>),
    /// A map's entries.
    Pairs(Vec<(Tree, Tree)>),
    /// A variant's index and what it holds.
    Variant(u32, Box<Tree>),
}

impl Tree {
    /// Leaves, roughly.
    fn size(&self) -> usize {
        match self {
            Tree::Something(inner) | Tree::Variant(_, inner) => inner.size(),
            Tree::List(items) => items.iter().map(Tree::size).sum::<usize>().max(1),
            Tree::Pairs(pairs) => {
                pairs.iter().map(|(key, value)| key.size() + value.size()).sum::<usize>().max(1)
            }
            Tree::Text(text) => 1 + text.len() / 16,
            Tree::Bytes(bytes) => 1 + bytes.len() / 16,
            Tree::Nothing | Tree::Truth(_) | Tree::Number(_) => 1,
        }
    }
}

/// Values of each name that are remembered of each side; older ones are forgotten.
const REMEMBERED: usize = 16;

/// Ids, amounts and most demands have so many leaves at most.
const LEAVES_OF_AN_ID: usize = 10;

/// Values with more leaves than this are not remembered.
const SIZE_MAX: usize = 48;

/// In 256, how often a remembered value is used where there is one: ids, amounts, demands; and of a name
/// under which larger things go.
const LIKELY: u8 = 190;
const UNLIKELY: u8 = 40;

/// What a machine has said and heard, by the names of types and fields: an arbitrary input that draws its
/// ids from here speaks of things that the machine knows.
#[derive(Clone, Debug)]
pub struct Dictionary {
    values: BTreeMap<&'static str, Known>,
    limit: usize,
    favourites: BTreeMap<&'static str, &'static [&'static str]>,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    /// The machine: what it names exists.
    Machine,
    /// The others, who may name anything.
    Peer,
}

/// The values of one name, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the machine has said.
    said: Vec<Tree>,
    /// What only others have said.
    heard: Vec<Tree>,
    /// Some are more than an id or an amount.
    large: bool,
}

impl Known {
    /// One of them, rather one that the machine has said, and rather one that it has said of late.
    pub fn draw(&self, entropy: &mut Entropy<'_>) -> Option<&Tree> {
        if !entropy.chance(if self.large { UNLIKELY } else { LIKELY }) {
            return None;
        }
        let trust = if self.heard.is_empty() { 255 } else { 180 };
        let values = if !self.said.is_empty() && entropy.chance(trust) { &self.said } else { &self.heard };
        let ago = entropy.index(values.len().max(1)).min(entropy.index(values.len().max(1)));
        values.iter().rev().nth(ago)
    }
}

impl Default for Dictionary {
    fn default() -> Dictionary {
        Dictionary { values: BTreeMap::new(), limit: REMEMBERED, favourites: BTreeMap::new() }
    }
}

impl Dictionary {
    /// Remember the parts of a value.
    pub fn learn<T: Serialize>(&mut self, side: Side, value: &T) {
        if let Err(error) = value.serialize(Harvest { dictionary: self, name: "", side }) {
            unreachable!("a dictionary takes everything: {error}");
        }
    }

    /// Numbers that fields of this name often have.
    pub fn know(&mut self, name: &'static str, numbers: &[u32]) {
        for number in numbers {
            self.remember(Side::Peer, name, &Tree::Number(i128::from(*number)));
        }
    }

    /// Of this enum, draw these variants more often than others. Names that it does not have are
    /// skipped.
    pub fn prefer(&mut self, name: &'static str, variants: &'static [&'static str]) {
        self.favourites.insert(name, variants);
    }

    /// See [`Dictionary::prefer`].
    pub fn preferred(&self, name: &str) -> &'static [&'static str] {
        self.favourites.get(name).copied().unwrap_or_default()
    }

    /// Everything of this name that a value mentions.
    pub fn mentions<T: Serialize>(value: &T, name: &str) -> Vec<Tree> {
        let mut dictionary = Dictionary { limit: usize::MAX, ..Dictionary::default() };
        dictionary.learn(Side::Machine, value);
        dictionary.values.remove(name).unwrap_or_default().said
    }

    /// What is known under a name.
    pub fn known(&self, name: &str) -> Option<&Known> {
        self.values.get(name)
    }

    fn remember(&mut self, side: Side, name: &'static str, tree: &Tree) {
        if name.is_empty() || matches!(tree, Tree::Nothing | Tree::Truth(_)) {
            return;
        }
        let size = tree.size();
        if size > SIZE_MAX {
            return;
        }
        let known = self.values.entry(name).or_default();
        let values = match side {
            Side::Machine => &mut known.said,
            Side::Peer if known.said.contains(tree) => return,
            Side::Peer => &mut known.heard,
        };
        if values.contains(tree) {
            return;
        }
        if values.len() == self.limit {
            values.remove(0);
        }
        values.push(tree.clone());
        known.large |= size > LEAVES_OF_AN_ID;
    }
}

/// Nothing fails, but serde wants an error type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TreeError(String);

impl ser::Error for TreeError {
    fn custom<T: core::fmt::Display>(message: T) -> TreeError {
        TreeError(message.to_string())
    }
}

impl serde::de::Error for TreeError {
    fn custom<T: core::fmt::Display>(message: T) -> TreeError {
        TreeError(message.to_string())
    }
}

/// Makes the tree of a value, and remembers it under the name of its type or field.
struct Harvest<'d> {
    dictionary: &'d mut Dictionary,
    name: &'static str,
    side: Side,
}

impl<'d> Harvest<'d> {
    fn leaf(self, tree: Tree) -> Result<Tree, TreeError> {
        self.dictionary.remember(self.side, self.name, &tree);
        Ok(tree)
    }

    fn compound(self, name: &'static str, variant: Option<u32>) -> Compound<'d> {
        Compound {
            dictionary: self.dictionary,
            name,
            side: self.side,
            variant,
            items: Vec::new(),
            keys: Vec::new(),
        }
    }
}

/// The parts of a value so far.
struct Compound<'d> {
    dictionary: &'d mut Dictionary,
    name: &'static str,
    side: Side,
    variant: Option<u32>,
    items: Vec<Tree>,
    keys: Vec<Tree>,
}

impl Compound<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), TreeError> {
        self.items.push(value.serialize(Harvest { dictionary: self.dictionary, name, side: self.side })?);
        Ok(())
    }

    fn finish(self) -> Result<Tree, TreeError> {
        let tree = match self.keys.is_empty() {
            true => Tree::List(self.items),
            false => Tree::Pairs(self.keys.into_iter().zip(self.items).collect()),
        };
        let tree = match self.variant {
            Some(index) => Tree::Variant(index, Box::new(tree)),
            None => tree,
        };
        self.dictionary.remember(self.side, self.name, &tree);
        Ok(tree)
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Tree, TreeError> {
            self.leaf(Tree::Number(value as i128))
        })*
    };
}

impl<'d> Serializer for Harvest<'d> {
    type Ok = Tree;
    type Error = TreeError;
    type SerializeSeq = Compound<'d>;
    type SerializeTuple = Compound<'d>;
    type SerializeTupleStruct = Compound<'d>;
    type SerializeTupleVariant = Compound<'d>;
    type SerializeMap = Compound<'d>;
    type SerializeStruct = Compound<'d>;
    type SerializeStructVariant = Compound<'d>;

    numbers!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
             serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
             serialize_char: char);

    fn serialize_f32(self, value: f32) -> Result<Tree, TreeError> {
        self.leaf(Tree::Number(i128::from(value.to_bits())))
    }
    fn serialize_f64(self, value: f64) -> Result<Tree, TreeError> {
        self.leaf(Tree::Number(i128::from(value.to_bits())))
    }
    fn serialize_bool(self, value: bool) -> Result<Tree, TreeError> {
        self.leaf(Tree::Truth(value))
    }
    fn serialize_str(self, value: &str) -> Result<Tree, TreeError> {
        self.leaf(Tree::Text(String::from(value)))
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<Tree, TreeError> {
        self.leaf(Tree::Bytes(Vec::from(value)))
    }
    fn serialize_none(self) -> Result<Tree, TreeError> {
        Ok(Tree::Nothing)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, TreeError> {
        Ok(Tree::Something(Box::new(value.serialize(self)?)))
    }
    fn serialize_unit(self) -> Result<Tree, TreeError> {
        Ok(Tree::Nothing)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Tree, TreeError> {
        Ok(Tree::Nothing)
    }
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<Tree, TreeError> {
        let tree = Tree::Variant(index, Box::new(Tree::Nothing));
        self.dictionary.remember(self.side, name, &tree);
        Ok(tree)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        let tree = value.serialize(Harvest { dictionary: &mut *self.dictionary, name, side: self.side })?;
        self.dictionary.remember(self.side, name, &tree);
        Ok(tree)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        let inner = value.serialize(Harvest { dictionary: &mut *self.dictionary, name, side: self.side })?;
        let tree = Tree::Variant(index, Box::new(inner));
        self.dictionary.remember(self.side, name, &tree);
        Ok(tree)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'d>, TreeError> {
        let name = self.name;
        Ok(self.compound(name, None))
    }
    fn serialize_tuple(self, _: usize) -> Result<Compound<'d>, TreeError> {
        let name = self.name;
        Ok(self.compound(name, None))
    }
    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Compound<'d>, TreeError> {
        Ok(self.compound(name, None))
    }
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Compound<'d>, TreeError> {
        Ok(self.compound(name, Some(index)))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'d>, TreeError> {
        let name = self.name;
        Ok(self.compound(name, None))
    }
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Compound<'d>, TreeError> {
        Ok(self.compound(name, None))
    }
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Compound<'d>, TreeError> {
        Ok(self.compound(name, Some(index)))
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident),*) => {
        $(impl ser::$trait for Compound<'_> {
            type Ok = Tree;
            type Error = TreeError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TreeError> {
                let name = self.name;
                self.item(name, value)
            }
            fn end(self) -> Result<Tree, TreeError> {
                self.finish()
            }
        })*
    };
}

elements!(SerializeSeq: serialize_element, SerializeTuple: serialize_element,
          SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field);

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Compound<'_> {
            type Ok = Tree;
            type Error = TreeError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), TreeError> {
                self.item(name, value)
            }
            fn end(self) -> Result<Tree, TreeError> {
                self.finish()
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Compound<'_> {
    type Ok = Tree;
    type Error = TreeError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), TreeError> {
        let key = key.serialize(Harvest { dictionary: self.dictionary, name: self.name, side: self.side })?;
        self.keys.push(key);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TreeError> {
        let name = self.name;
        self.item(name, value)
    }
    fn end(self) -> Result<Tree, TreeError> {
        self.finish()
    }
}
