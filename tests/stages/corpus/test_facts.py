import pytest




@pytest.mark.parametrize(
    ("question", "answer", "verdict"),
    [
        ("Which?\nOptions: (a) red (b) dark blue\n<image>", "(b)  Dark Blue.", True),
        ("<image>\nWhich?\nOptions: previous next", "next", True),
        ("<image>\nWhich?\nOptions: previous next", "before", False),
        ("<image>\nOptions are: day, night.", "dusk", None),
        ("<image>\nOptions: day, night.", None, None),
    ],
)
def test_a_choice_is_looked_up_in_the_list_after_options(question, answer, verdict):
    assert is_option(question, answer) is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("the man at [0.1, 0.2, 0.3, 0.4] and [0,0,1,1]", True),
        ("nobody", None),
        ("[someone]", None),
        ("[0.1, 0.4, 0.3, 0.2]", False),
        ("[0.3, 0.2, 0.1, 0.4]", False),
        ("[0.1, 0.2, 0.3]", False),
        ("[0.1, 0.2, 0.3, 0.4.5]", False),
        ("[-0.1, 0.2, 0.3, 0.4]", False),
    ],
)
def test_boxes_are_four_numbers_inside_the_picture(text, verdict):
    assert boxes_within(text) is verdict
