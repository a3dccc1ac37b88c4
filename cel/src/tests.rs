//! Tables: expressions and what they come to.

use serde_json::{Value, json};

use super::*;

fn object() -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "a/b": "c"}},
        "spec": {"replicas": 3, "ratio": 2.0, "on": true, "ports": [80, 443], "items": [{"name": "x", "n": 1}, {"name": "y", "n": 2}]}})
}

fn run(source: &str) -> Result<Value, String> {
    let object = object();
    let program = Program::compile(source, &Env::dynamic(&["object"])).map_err(|e| e.message)?;
    let bindings = Bindings::new().with("object", &object);
    program.eval(&bindings, &mut Budget::new(TOTAL_LIMIT)).map_err(|e| e.to_string())
}

#[test]
fn the_language() {
    for (source, wanted) in [
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("-object.spec.replicas", json!(-3)),
        ("'a' + \"b\" + r'\\n' + '\\u00e9'", json!("ab\\né")),
        ("1 < 2.5 && 2u >= 1 || false", json!(true)),
        ("object.spec.replicas > 2 ? 'many' : 'few'", json!("many")),
        ("has(object.spec.on) && !has(object.spec.off)", json!(true)),
        ("object.spec.off == 1 || true", json!(true)),
        ("false && object.nope.nope", json!(false)),
        ("object.metadata.labels['a/b']", json!("c")),
        ("object.metadata.namespace", json!("shop")),
        ("object.spec.ports.all(p, p > 10)", json!(true)),
        ("object.spec.items.exists(i, i.name == 'y' && i.n == 2)", json!(true)),
        ("object.spec.items.exists_one(i, i.n > 0)", json!(false)),
        ("object.spec.items.filter(i, i.n > 1).map(i, i.name)", json!(["y"])),
        ("object.spec.items.map(i, i.n > 1, i.name)", json!(["y"])),
        ("object.metadata.labels.all(k, k.size() > 0)", json!(true)),
        ("object.metadata.labels.exists(k, v, k == 'app' && v == 'web')", json!(true)),
        ("[1, 2].transformList(i, v, i + v)", json!([1, 3])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("'app' in object.metadata.labels && 80 in object.spec.ports", json!(true)),
        ("object.?spec.?nope.orValue('none')", json!("none")),
        ("object.?spec.replicas.value() + 1", json!(4)),
        ("object.metadata.labels[?'app'].hasValue()", json!(true)),
        ("optional.of(2).optMap(x, x * 2).value()", json!(4)),
        ("[?object.?nope, ?object.?spec.?replicas]", json!([3])),
        ("{?'a': object.?nope, 'b': 1}", json!({"b": 1})),
        ("size(object.spec.ports) + 'é'.size()", json!(3)),
        ("type(1) == int && type('') == string && type([]) == list", json!(true)),
        ("int('7') + int(2.9) + int(3u)", json!(12)),
        ("string(1.5) + string(true) + string(duration('90s'))", json!("1.5true90s")),
        ("timestamp('2024-03-01T10:00:00Z').getMonth()", json!(2)),
        ("timestamp('2024-03-01T23:00:00Z').getHours('+02:00')", json!(1)),
        ("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')", json!(true)),
        ("b'abc'.size() == 3 && bytes('a') == b'a'", json!(true)),
        ("[1] + [2] == [1, 2] && {'a': 1.0} == {'a': 1.0}", json!(true)),
        ("cel.bind(x, 2, x * x)", json!(4)),
        ("object.spec.ratio == 2.0 && 1 == 1", json!(true)),
        ("// comment\n true", json!(true)),
    ] {
        assert_eq!(run(source), Ok(wanted), "{source}");
    }
}

#[test]
fn the_libraries() {
    for source in [
        "'Hello'.lowerAscii() == 'hello' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.charAt(4) == 'o'",
        "'%s is %d of %.2f %s'.format(['x', 3, 1.5, [1, 'a']]) == 'x is 3 of 1.50 [1, \"a\"]'",
        "'abc123'.matches('^[a-z]+[0-9]+$') && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1'.find('[0-9]') == '1'",
        "'aaa'.replace('a', 'b', 2) == 'bba' && ' x '.trim() == 'x'",
        "[1, 2, 3].sum() == 6 && [2, 1].max() == 2 && [1, 1, 2].isSorted() && ['b'].indexOf('b') == 0",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2, 2], [2, 1]) && !sets.intersects([1], [2])",
        "quantity('1.5Gi').isGreaterThan(quantity('1500M')) && isQuantity('1k') && !isQuantity('x')",
        "quantity('1k').add(2).asInteger() == 1002 && quantity('500m').asApproximateFloat() == 0.5",
        "isURL('https://a.b:80/p?q=1&q=2') && url('https://a.b:80/p?q=1&q=2').getQuery()['q'] == ['1', '2']",
        "url('https://[::1]:80/p').getHostname() == '::1' && url('https://a.b:80/p').getPort() == '80' && !isURL('a.b')",
        "isIP('::1') && !isIP('1.2.3') && ip('127.0.0.1').isLoopback() && ip('10.0.0.1').family() == 4",
        "cidr('10.0.0.0/8').containsIP('10.2.3.4') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && string(cidr('10.1.2.3/8').masked()) == '10.0.0.0/8'",
        "isSemver('1.2.3-rc.1') && !isSemver('1.2') && isSemver('v1.2', true) && semver('1.10.0').isGreaterThan(semver('1.9.9'))",
        "!format.dns1123Label().validate('a-b').hasValue() && format.named('uuid').value().validate('x').hasValue()",
    ] {
        assert_eq!(run(source), Ok(json!(true)), "{source}");
    }
}

#[test]
fn what_fails() {
    for (source, why) in [
        ("object.nope == 1", "no such key: nope"),
        ("1 / 0", "division by zero"),
        ("[1][3]", "index out of bounds"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("object.metadata.name.matches('[' + 'x')", "error parsing regexp"),
        ("object.metadata.name > 1", "no such overload"),
        ("bad (", "ERROR: <input>:1:6: Syntax error: mismatched input '<EOF>'\n | bad (\n | .....^"),
        ("nope.x", "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')"),
        ("true &&\n  1", "ERROR: <input>:2:3: expected type 'bool' but found 'int'\n |   1\n | ..^"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("[1, 'a']", "expected type 'int' but found 'string'"),
        ("'a'.matches('[')", "invalid matches argument"),
        ("namespace == 1", "reserved identifier"),
        ("has(object)", "invalid argument to has() macro"),
        ("object.f(", "mismatched input"),
        ("unknown(1)", "undeclared reference to 'unknown'"),
    ] {
        let error = run(source).unwrap_err();
        assert!(error.contains(why), "{source}: {error}");
    }
    for deep in [
        "(".repeat(10_000),
        "-".repeat(3) + &"!(".repeat(10_000),
        "1".to_owned() + &"+1".repeat(10_000),
        "[".repeat(10_000),
    ] {
        assert!(run(&deep).is_err());
    }
}

#[test]
fn typed_by_a_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "namespace": {"type": "string"}, "a-b": {"type": "integer"}, "n": {"type": "number"}, "at": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true}, "list": {"type": "array", "items": {"type": "string"}}}}}});
    let env = Env::new().with("self", Type::of_schema(&schema, true).unwrap());
    let value = json!({"metadata": {"name": "x", "labels": {}}, "spec": {"namespace": "ns", "a-b": 1, "n": 2, "at": "2024-01-01T00:00:00Z", "port": "http", "list": ["a"]}});
    let eval = |source: &str| {
        let program = Program::compile(source, &env).map_err(|e| e.message)?;
        program.eval(&Bindings::new().with("self", &value), &mut Budget::new(TOTAL_LIMIT)).map_err(|e| e.to_string())
    };
    for source in [
        "self.spec.__namespace__ == 'ns' && self.spec.a__dash__b == 1 && self.spec.n == 2.0",
        "self.spec.at.getFullYear() == 2024 && self.spec.port == 'http' && self.metadata.name == 'x'",
        "self.spec.list.all(l, l.startsWith('a'))",
    ] {
        assert_eq!(eval(source), Ok(json!(true)), "{source}");
    }
    for (source, why) in [
        ("self.spec.nope", "undefined field 'nope'"),
        ("self.metadata.labels", "undefined field 'labels'"),
        ("self.spec.list == 'a'", "found no matching overload for '_==_'"),
        ("self.spec.n.size()", "found no matching overload for 'size' applied to 'double.()'"),
    ] {
        let error = eval(source).unwrap_err();
        assert!(error.contains(why), "{source}: {error}");
    }
    assert_eq!(Program::compile_as("1", &env, &[Type::Bool]).unwrap_err().message, "must evaluate to bool");
    let pods = Type::Builtin(apimachinery::schema::Held::Static(
        apimachinery::schema::lookup("apps", "v1", "Deployment").unwrap(),
    ));
    let error = Program::compile("object.replicas > 1", &Env::new().with("object", pods)).unwrap_err();
    assert_eq!(error.message, "ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^");
}

#[test]
fn costs_are_bounded() {
    let big: Vec<u32> = (0..1000).collect();
    let big = json!({"l": big});
    let env = Env::dynamic(&["object"]);
    let program = Program::compile("object.l.all(a, object.l.all(b, object.l.all(c, a + b + c >= 0)))", &env).unwrap();
    let mut budget = Budget::new(TOTAL_LIMIT);
    let bindings = Bindings::new().with("object", &big);
    assert_eq!(program.eval(&bindings, &mut budget), Err(Error::CostExceeded));
    assert!(!budget.is_spent());
    assert_eq!(program.eval(&bindings, &mut Budget::new(10)), Err(Error::CostExceeded));
}

#[test]
fn variables_run_when_used() {
    let mut env = Env::dynamic(&["object"]);
    let mut programs = Vec::new();
    for (name, source) in [("bad", "object.nope"), ("n", "object.spec.replicas"), ("twice", "variables.n * 2")] {
        programs.push(Program::compile(source, &env).unwrap());
        env.add_variable(name, programs.last().unwrap().output().clone());
    }
    let program = Program::compile("variables.twice + variables.n", &env).unwrap();
    let bad = Program::compile("variables.bad", &env).unwrap();
    let object = object();
    let bindings = Bindings::new().with("object", &object).variables(&programs);
    let mut budget = Budget::new(TOTAL_LIMIT);
    assert_eq!(program.eval(&bindings, &mut budget), Ok(json!(9)));
    assert!(bad.eval(&bindings, &mut budget).is_err());
    assert!(Program::compile("variables.nope", &env).is_err());
}

#[test]
fn asks_what_the_user_may() {
    struct Only(Question);
    impl Authorizer for Only {
        fn decide(&self, question: &Question) -> functions::authorizer::Decision {
            functions::authorizer::Decision { allowed: *question == self.0, ..Default::default() }
        }
    }
    let only = Only(Question {
        verb: "get".into(),
        group: "apps".into(),
        resource: "deployments".into(),
        namespace: "ns".into(),
        ..Question::default()
    });
    let env =
        Env::new().with("authorizer", Type::authorizer()).with("authorizer.requestResource", Type::resource_check());
    let cases: Vec<(Program, bool)> = [
        ("authorizer.group('apps').resource('deployments').namespace('ns').check('get').allowed()", true),
        ("authorizer.requestResource.check('get').allowed()", true),
        ("authorizer.path('/x').check('get').allowed()", false),
    ]
    .map(|(source, wanted)| (Program::compile(source, &env).unwrap(), wanted))
    .into();
    let bindings = Bindings::new().with_authorizer("authorizer", &only).with_resource_authorizer(
        "authorizer.requestResource",
        &only,
        ["apps", "deployments", "", "ns", ""],
    );
    for (program, wanted) in &cases {
        assert_eq!(program.eval(&bindings, &mut Budget::new(TOTAL_LIMIT)), Ok(json!(wanted)), "{program:?}");
    }
}

#[test]
fn patches() {
    let env = Env::dynamic(&["object"]).with_patches();
    let object = object();
    let eval = |source: &str| {
        let program = Program::compile(source, &env).map_err(|e| e.message)?;
        program.eval(&Bindings::new().with("object", &object), &mut Budget::new(TOTAL_LIMIT)).map_err(|e| e.to_string())
    };
    assert_eq!(
        eval("Object{spec: Object.spec{items: [Object.spec.items{name: object.metadata.name}]}}"),
        Ok(json!({"spec": {"items": [{"name": "web"}]}}))
    );
    assert_eq!(
        eval("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: {'x': 1}}]"),
        Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": {"x": 1}}]))
    );
    assert!(eval("Object{spec: Object.nope{}}").is_err());
    assert!(eval("[JSONPatch{op: 1}]").is_err());
}
