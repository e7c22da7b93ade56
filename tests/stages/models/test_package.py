from stages.models.package import requirements


def test_requirements_are_pinned_without_the_name_of_a_build():
    assert all("==" in line and "+" not in line for line in requirements())
