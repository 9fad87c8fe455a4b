# The catalogue of operators.h, for roidl._operators; part of _core.pyx.

cdef tuple ROLES = ("maps", "pooled", "boxes", "argmax")
cdef tuple LINEAR = ("never", "in_average", "always")
cdef tuple RULE_KINDS = ("zero", "refused", "op")


def catalogue():
    """Return (version, families, operators). Families and operators are lists of tuples, in the
    order of the fields of their classes in roidl._operators; rows refer to each other by name."""
    cdef int i
    return (kCatalogueVersion, [family_row(i) for i in range(kNumFamilies)],
            [operator_row(i) for i in range(kNumOperators)])


cdef family_row(int index):
    cdef const FamilyInfo* family = &kFamilies[index]
    cdef int i
    modes = [family.modes[i].decode() for i in range(kMaxModes) if family.modes[i] != NULL]
    cdef uint32_t bits = modes_with_box_gradient(<Family>index)
    with_box_gradient = [bool(bits & (1 << i)) for i in range(len(modes))]
    return (family.name.decode(), family.columns, tuple(modes), family.average,
            tuple(with_box_gradient), family.channels_per_bin, param_fields(index))


cdef operator_row(int index):
    cdef const Operator* row = &kOperators[index]
    cdef const FamilyInfo* family = &kFamilies[<int>row.family]
    cdef int i
    modes = [bool(row.modes & (1 << i)) for i in range(kMaxModes) if family.modes[i] != NULL]
    return (row.name.decode(), family.name.decode(),
            tuple([read_row(&row.reads[i]) for i in range(row.num_reads())]),
            tuple([write_row(&row.writes[i]) for i in range(row.num_writes())]),
            rule_row(&row.boxes), tuple(modes), operator_name(row.in_average))


cdef read_row(const Read* read):
    return (read.name.decode(), ROLES[<int>read.role], read.need == Need.of_maximum,
            LINEAR[<int>read.linear], rule_row(&read.derivative), rule_row(&read.transpose))


cdef write_row(const Write* write):
    return write.name.decode(), ROLES[<int>write.role], write.optional


cdef rule_row(const Rule* rule):
    return (RULE_KINDS[<int>rule.kind], operator_name(rule.op),
            None if rule.at == NULL else rule.at.decode(), rule.only_average)


cdef operator_name(Op op):
    return None if op == Op.none else kOperators[<int>op].name.decode()


cdef param_fields(int family):
    """Return (name, "int", "float" or "bool") for each field of a family's parameters."""
    cdef Field fields[16]
    cdef int i
    kinds = {b"i": "int", b"f": "float", b"b": "bool"}
    return tuple([(fields[i].name.decode(), kinds[bytes([fields[i].kind])])
                  for i in range(fields_of(<Family>family, fields))])


cdef dict ROWS = {kOperators[i].name.decode(): i for i in range(kNumOperators)}


cdef const Operator* row_of(op) except NULL:
    """Return the row of an operator by its name on one map or on several."""
    cdef int index = ROWS[op.removeprefix("multiscale_")]
    return &kOperators[index]


@cython.final
cdef class ParamKinds:
    """The kinds of the fields of each family's parameters."""
    cdef int counts[kNumFamilies]
    cdef char kinds[kNumFamilies][16]

    def __cinit__(self):
        cdef Field fields[16]
        cdef int family, i
        for family in range(kNumFamilies):
            self.counts[family] = fields_of(<Family>family, fields)
            for i in range(self.counts[family]):
                self.kinds[family][i] = fields[i].kind


cdef ParamKinds PARAM_KINDS = ParamKinds()


cdef AnyParams params_of_tuple(Family family, params) except *:
    """Return parameters from the values of the fields, in order: a (named) tuple, or a dictionary.
    """
    cdef tuple values = tuple(params.values()) if isinstance(params, dict) else <tuple>params
    cdef Number numbers[16]
    cdef int i
    for i in range(PARAM_KINDS.counts[<int>family]):
        if PARAM_KINDS.kinds[<int>family][i] == b"f":
            numbers[i].real = values[i]
        else:
            numbers[i].whole = values[i]
    return params_from(family, numbers)
