//! An arbitrary value of any type that serde can read: its shape from the type, its choices from the
//! fuzzer's bytes, its ids from a [`Dictionary`]. New messages and fields need nothing here.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use crate::entropy::Entropy;
use crate::tree::{Dictionary, Tree, TreeError};

/// Deeper than any type of the machines: only one that contains itself gets here.
const DEPTH_MAX: u32 = 64;

/// A value of type `T`.
///
/// # Panics
///
/// If the type is recursive, or refuses a value that its derived shape allows.
pub fn generate<T: DeserializeOwned>(entropy: &mut Entropy<'_>, dictionary: &Dictionary) -> T {
    let draw = Draw { entropy, dictionary, name: "", follow: None, depth: 0 };
    match T::deserialize(draw) {
        Ok(value) => value,
        Err(error) => panic!("no {}: {error}", core::any::type_name::<T>()),
    }
}

/// One place in the value that is being drawn.
struct Draw<'a, 'b, 'd> {
    entropy: &'a mut Entropy<'b>,
    dictionary: &'d Dictionary,
    /// The name of the type or field here.
    name: &'static str,
    /// What the dictionary has for this place.
    follow: Option<&'d Tree>,
    depth: u32,
}

impl<'b, 'd> Draw<'_, 'b, 'd> {
    /// Take a remembered value for what has this name, unless one is being followed already.
    fn recall(&mut self, name: &'static str) {
        self.name = name;
        if self.follow.is_some() {
            return;
        }
        self.follow = self.dictionary.known(name).and_then(|known| known.draw(self.entropy));
    }

    fn integer(&mut self) -> i128 {
        self.recall(self.name);
        match self.follow {
            Some(Tree::Number(number)) => *number,
            _ => self.entropy.integer() as i128,
        }
    }

    fn text(&mut self) -> String {
        self.recall(self.name);
        match self.follow {
            Some(Tree::Text(text)) => text.clone(),
            _ => String::from(self.entropy.pick(&["", "a", "b", "CPU", "GPU", "\u{e9}"])),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.follow {
            Some(Tree::Bytes(bytes)) => bytes.clone(),
            _ => {
                let length = self.entropy.pick(&[0, 0, 1, 7, 64]);
                Vec::from(self.entropy.take(length))
            }
        }
    }

    /// How many elements a sequence of unknown length has.
    fn length(&mut self) -> usize {
        match self.follow {
            Some(Tree::List(items)) => items.len(),
            Some(Tree::Pairs(pairs)) => pairs.len(),
            _ => self.entropy.pick(&[0, 0, 1, 1, 1, 2, 3, 6]),
        }
    }

    fn variant(&mut self, name: &str, variants: &[&str]) -> usize {
        let preferred = self.dictionary.preferred(name);
        if !preferred.is_empty() && self.entropy.chance(210) {
            let favourite = self.entropy.pick(preferred);
            if let Some(index) = variants.iter().position(|variant| *variant == favourite) {
                return index;
            }
        }
        self.entropy.index(variants.len())
    }

    fn below(&mut self) -> Draw<'_, 'b, 'd> {
        assert!(self.depth < DEPTH_MAX, "{} contains itself", self.name);
        let Draw { dictionary, name, follow, depth, .. } = *self;
        Draw { entropy: self.entropy, dictionary, name, follow, depth: depth + 1 }
    }

    fn elements(&mut self, names: &'static [&'static str], length: usize) -> Elements<'_, 'b, 'd> {
        Elements { draw: self.below(), names, next: 0, length, value: None }
    }
}

macro_rules! integers {
    ($($method:ident: $visit:ident($type:ty)),*) => {
        $(fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
            let value = self.integer() as $type;
            visitor.$visit(value)
        })*
    };
}

impl<'de> Deserializer<'de> for Draw<'_, '_, '_> {
    type Error = TreeError;

    integers!(deserialize_i8: visit_i8(i8), deserialize_i16: visit_i16(i16), deserialize_i32: visit_i32(i32),
              deserialize_i64: visit_i64(i64), deserialize_i128: visit_i128(i128), deserialize_u8: visit_u8(u8),
              deserialize_u16: visit_u16(u16), deserialize_u32: visit_u32(u32), deserialize_u64: visit_u64(u64),
              deserialize_u128: visit_u128(u128));

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TreeError> {
        unreachable!("the wire format does not describe itself, so no type asks for this")
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_any(visitor)
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_any(visitor)
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        let value = match self.follow {
            Some(Tree::Truth(value)) => *value,
            _ => self.entropy.chance(128),
        };
        visitor.visit_bool(value)
    }
    fn deserialize_f32<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        let bits = self.integer() as u32;
        visitor.visit_f32(f32::from_bits(bits))
    }
    fn deserialize_f64<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        let bits = self.integer() as u64;
        visitor.visit_f64(f64::from_bits(bits))
    }
    fn deserialize_char<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        let value = self.integer() as u32;
        visitor.visit_char(char::from_u32(value).unwrap_or('a'))
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_string(visitor)
    }
    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_string(self.text())
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_byte_buf(visitor)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_byte_buf(self.bytes())
    }
    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        match self.follow {
            Some(Tree::Something(inner)) => self.follow = Some(inner),
            Some(Tree::Nothing) => return visitor.visit_none(),
            _ if !self.entropy.chance(128) => return visitor.visit_none(),
            _ => {}
        }
        visitor.visit_some(self)
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.recall(name);
        visitor.visit_newtype_struct(self.below())
    }
    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        let length = self.length();
        visitor.visit_seq(self.elements(&[], length))
    }
    fn deserialize_tuple<V: Visitor<'de>>(
        mut self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_seq(self.elements(&[], length))
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.recall(name);
        visitor.visit_seq(self.elements(&[], length))
    }
    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TreeError> {
        let length = self.length();
        visitor.visit_map(self.elements(&[], length))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.recall(name);
        visitor.visit_seq(self.elements(fields, fields.len()))
    }
    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.recall(name);
        let index = match self.follow {
            Some(Tree::Variant(index, inner)) if (*index as usize) < variants.len() => {
                self.follow = Some(inner);
                *index
            }
            _ => {
                self.follow = None;
                self.variant(name, variants) as u32
            }
        };
        visitor.visit_enum(Alternative { index, draw: self })
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The fields or elements of a value.
struct Elements<'a, 'b, 'd> {
    /// The whole value.
    draw: Draw<'a, 'b, 'd>,
    names: &'static [&'static str],
    next: usize,
    length: usize,
    /// The remembered value of the key that was read last.
    value: Option<&'d Tree>,
}

impl<'b, 'd> Elements<'_, 'b, 'd> {
    fn draw(&mut self, follow: Option<&'d Tree>) -> Draw<'_, 'b, 'd> {
        let name = self.names.get(self.next).copied().unwrap_or(self.draw.name);
        Draw { name, follow, ..self.draw.below() }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, '_, '_> {
    type Error = TreeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TreeError> {
        if self.next == self.length {
            return Ok(None);
        }
        let follow = match self.draw.follow {
            Some(Tree::List(items)) => items.get(self.next),
            _ => None,
        };
        let element = seed.deserialize(self.draw(follow))?;
        self.next += 1;
        Ok(Some(element))
    }
}

impl<'de> MapAccess<'de> for Elements<'_, '_, '_> {
    type Error = TreeError;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TreeError> {
        if self.next == self.length {
            return Ok(None);
        }
        let (key, value) = match self.draw.follow {
            Some(Tree::Pairs(pairs)) => pairs.get(self.next).map(|(key, value)| (key, value)).unzip(),
            _ => (None, None),
        };
        self.value = value;
        let key = seed.deserialize(self.draw(key))?;
        self.next += 1;
        Ok(Some(key))
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, TreeError> {
        let follow = self.value;
        seed.deserialize(self.draw(follow))
    }
}

/// A variant of an enum.
struct Alternative<'a, 'b, 'd> {
    index: u32,
    draw: Draw<'a, 'b, 'd>,
}

impl<'de> EnumAccess<'de> for Alternative<'_, '_, '_> {
    type Error = TreeError;
    type Variant = Self;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), TreeError> {
        let index: serde::de::value::U32Deserializer<TreeError> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Alternative<'_, '_, '_> {
    type Error = TreeError;
    fn unit_variant(self) -> Result<(), TreeError> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value, TreeError> {
        seed.deserialize(self.draw.below())
    }
    fn tuple_variant<V: Visitor<'de>>(mut self, length: usize, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_seq(self.draw.elements(&[], length))
    }
    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_seq(self.draw.elements(fields, fields.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Side;
    use shoal_core::ids::{LeaseId, NodeId};
    use shoal_core::message::Message;
    use shoal_transport_sim::Random;
    use std::collections::BTreeSet;

    fn noise(seed: u64) -> Vec<u8> {
        crate::bounded::noise(&mut Random::new(seed), 300)
    }

    /// Every message is drawn sooner or later, also those that nobody has thought of yet.
    #[test]
    fn every_variant_occurs() {
        let mut seen = BTreeSet::new();
        let mut variants = 0;
        for seed in 0..20_000 {
            let bytes = noise(seed);
            let message: Message = generate(&mut Entropy::new(&bytes), &Dictionary::default());
            let encoded = shoal_core::wire::encode(&message).expect("a message can be encoded");
            let index: u32 = u32::from(encoded[0]);
            variants = variants.max(index);
            seen.insert(index);
        }
        assert_eq!(
            seen.len(),
            variants as usize + 1,
            "missing: {:?}",
            (0..variants).filter(|v| !seen.contains(v))
        );
    }

    #[test]
    fn what_was_said_is_spoken_of() {
        let said = LeaseId { node: NodeId(77), epoch: 88, number: 99 };
        let mut dictionary = Dictionary::default();
        dictionary.learn(Side::Machine, &said);
        let drawn = (0..200).map(|seed| {
            let bytes = noise(seed);
            generate::<LeaseId>(&mut Entropy::new(&bytes), &dictionary)
        });
        let repeated = drawn.filter(|lease| *lease == said).count();
        assert!((100..200).contains(&repeated), "{repeated}");
    }

    #[test]
    fn the_end_of_the_bytes_is_the_end_of_the_value() {
        let message: Message = generate(&mut Entropy::new(&[]), &Dictionary::default());
        assert!(matches!(message, Message::RequestLease { .. }), "{message:?}");
    }

    #[test]
    #[should_panic(expected = "contains itself")]
    fn a_recursive_type_is_found() {
        #[derive(Debug, serde::Deserialize)]
        struct Chain(#[expect(dead_code, reason = "only its shape matters")] Option<Box<Chain>>);
        generate::<Chain>(&mut Entropy::new(&[1; 1000]), &Dictionary::default());
    }
}
