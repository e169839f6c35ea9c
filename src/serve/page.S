# Embeds page.html; the build passes its path.
    .section .rodata
    .global edgewise_page_begin
    .global edgewise_page_end
edgewise_page_begin:
    .incbin EDGEWISE_PAGE_FILE
edgewise_page_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
