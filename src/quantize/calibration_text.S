# Embeds models/calibration.jsonl; the build passes its path.
    .section .rodata
    .global edgewise_calibration_begin
    .global edgewise_calibration_end
edgewise_calibration_begin:
    .incbin EDGEWISE_CALIBRATION_FILE
edgewise_calibration_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
