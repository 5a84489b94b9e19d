//! Strings and bytes are taken out of the slice that is decoded.
//!
//! Asked for a string of its own, bincode makes room for as many bytes as the string is said to have, up to
//! the limit of a frame, before it looks whether so many have come. Asked for one that it may borrow it looks
//! first. So everything that reads a value is wrapped here, down to its strings, and these are borrowed; who
//! wants to own one copies it then.

use core::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// A value of type `T`, read as this module says.
pub(super) struct Whole<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(Slices(deserializer)).map(Whole)
    }
}

/// Wraps each of the parts that take turns in reading a value.
struct Slices<T>(T);

macro_rules! forward {
    ($($asked:ident => $given:ident),*) => {
        $(#[inline]
        fn $asked<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$given(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Slices<D> {
    type Error = D::Error;

    forward!(deserialize_string => deserialize_str, deserialize_byte_buf => deserialize_bytes);
    forward!(deserialize_str => deserialize_str, deserialize_bytes => deserialize_bytes);
    forward!(deserialize_bool => deserialize_bool, deserialize_char => deserialize_char);
    forward!(deserialize_i8 => deserialize_i8, deserialize_i16 => deserialize_i16);
    forward!(deserialize_i32 => deserialize_i32, deserialize_i64 => deserialize_i64);
    forward!(deserialize_i128 => deserialize_i128, deserialize_u128 => deserialize_u128);
    forward!(deserialize_u8 => deserialize_u8, deserialize_u16 => deserialize_u16);
    forward!(deserialize_u32 => deserialize_u32, deserialize_u64 => deserialize_u64);
    forward!(deserialize_f32 => deserialize_f32, deserialize_f64 => deserialize_f64);
    forward!(deserialize_unit => deserialize_unit, deserialize_any => deserialize_any);
    forward!(deserialize_identifier => deserialize_identifier);
    forward!(deserialize_ignored_any => deserialize_ignored_any);

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Slices(visitor))
    }
    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_seq(Slices(visitor))
    }
    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Slices(visitor))
    }
    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, Slices(visitor))
    }
    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }
    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Slices(visitor))
    }
    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, Slices(visitor))
    }
    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Slices(visitor))
    }
    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Slices(visitor))
    }
    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Slices<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
    #[inline]
    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }
    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Slices(deserializer))
    }
    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Slices(deserializer))
    }
    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Slices(access))
    }
    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Slices(access))
    }
    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Slices(access))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Slices<S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Slices(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Slices<A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Slices(seed))
    }
    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Slices<A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Slices(seed))
    }
    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Slices(seed))
    }
    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Slices<A> {
    type Error = A::Error;
    type Variant = Slices<A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Slices(seed)).map(|(value, variant)| (value, Slices(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Slices<A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }
    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Slices(seed))
    }
    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, Slices(visitor))
    }
    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Slices(visitor))
    }
}
