//! Controller revisions and pod templates: frozen or loose copies of templates.

use apimachinery::validation as names;

use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::at_mut;
use crate::resources::printing::{NONE, age, containers, labels, name, number};
use crate::resources::{NameRule, Strategy, meta};

/// The controllerrevisions resource: the data never changes.
pub const CONTROLLER_REVISION: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        let at = At::root(object);
        check.non_negative(&at.get("revision"));
        if !at.get("data").value.is_object() {
            check.required(&at.get("data"), "data must be a valid JSON object");
        }
        check.errors
    },
    validate_update: |object, old, cx| {
        let mut check = meta::checked(object, cx);
        let (new, old) = (At::root(object), At::root(old));
        meta::update(&mut check, &new, &old);
        check.non_negative(&new.get("revision"));
        check.immutable(&new.get("data"), &old.get("data"));
        check.errors
    },
    cells: Some(|object, cx| {
        let object = At::root(object);
        let controller = object.get("metadata.ownerReferences").items().find(|o| o.get("controller").flag());
        let controller = controller.map_or(NONE.to_owned(), |owner| {
            let group =
                owner.get("apiVersion").str().split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
            format!("{}{group}/{}", owner.get("kind").str(), owner.get("name").str()).to_lowercase()
        });
        vec![name(&object), controller.into(), number(&object.get("revision")), age(&object, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// The podtemplates resource.
pub const POD_TEMPLATE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |object, cx| {
        at_mut(object, "template.spec", pod::defaults::spec);
        (Strategy::DEFAULT.default)(object, cx);
    },
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        pod::template(&mut check, &At::root(object).get("template"), cx);
        check.errors
    },
    validate_update: |object, old, cx| {
        let mut check = Check::new();
        let new = At::root(object);
        meta::update(&mut check, &new, &At::root(old));
        pod::template(&mut check, &new.get("template"), cx);
        check.errors
    },
    warnings: |object, old| {
        let unchanged = old.is_some_and(|old| old["template"] == object["template"]);
        pod::warnings::template(&At::root(object).get("template"), unchanged)
    },
    cells: Some(|object, _| {
        let object = At::root(object);
        let (names, images) = containers(&object.get("template.spec"));
        vec![name(&object), names, images, labels(&object.get("template.metadata.labels"))]
    }),
    ..Strategy::DEFAULT
};
